//! People and their log-ins.

mod access;
mod account;
mod api_keys;
mod block;
mod deletion;
mod email;
mod guessable;
mod life;
mod passkey_log_in;
mod passkeys;
mod password;
mod proof;
mod refresh;
mod reset;
mod second_factor;
mod security;
mod session;
mod sessions;
mod strength;
mod totp;
mod verify;

pub use account::{MEMBERSHIPS, account};
pub use api_keys::{API_KEYS, PREFIX as API_KEY_PREFIX, good as good_api_key, read as read_api_key};
pub use session::{SESSION, session};
pub use sessions::{SESSIONS, SESSIONS_MAX};
