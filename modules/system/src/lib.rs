//! The installation itself: unique names, wake-ups, mails on their way out, and
//! who administers it.
//! Four actors of which there is one each, in the system's vault.

mod directory;
mod installation;
mod letters;
mod mail;
mod wakes;

pub use directory::directory;
pub use installation::{SYS_ADMINS, installation};
pub use letters::{Text, message_of};
pub use mail::{WAITING, mail};
pub use wakes::wakes;
