//! The installation itself: unique names, wake-ups, and who administers it.
//! Three actors of which there is one each, in the system's vault.

mod directory;
mod installation;
mod wakes;

pub use directory::directory;
pub use installation::{SYS_ADMINS, installation};
pub use wakes::wakes;
