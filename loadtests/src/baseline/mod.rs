//! What a server must be compared with: the least that can be done for the same bytes.

pub mod bare_cipher;
pub mod bare_hash;
pub mod bare_vaults;
pub mod echo;
pub mod fanout;
pub mod plain_rows;
pub mod raw_fjall;
mod serve;
mod sides;

pub use serve::{Kind, serve, spin};
pub use sides::Baseline;
