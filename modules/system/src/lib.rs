//! The installation itself: unique names, wake-ups, mails on their way out, who
//! administers it, and what was purged. Five actors of which there is one each,
//! in the system's vault.

mod directory;
mod installation;
mod letters;
mod mail;
mod purges;
mod wakes;

pub use directory::directory;
pub use installation::{SYS_ADMINS, installation};
pub use letters::{Text, message_of};
pub use mail::{WAITING, mail};
pub use purges::{PENDING_PURGES, purges};
pub use wakes::wakes;
