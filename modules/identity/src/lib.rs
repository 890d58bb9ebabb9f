//! People and their log-ins.

mod account;
mod session;

pub use account::{MEMBERSHIPS, account};
pub use session::{SESSION, session};
