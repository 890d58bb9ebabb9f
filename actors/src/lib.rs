//! The shells: what stands between a call and a pure decision. A shell
//! activates with its address's first message, decides one command after the
//! other, commits without waiting, answers what is durable, delivers effects,
//! wakes when it asked to, and passivates when idle.

mod attempts;
mod audit;
mod backup;
mod backup_queue;
mod breached;
mod budget;
mod call;
mod clock;
mod completion;
mod delivery;
mod denials;
mod hashing;
mod mail;
mod node;
mod passkey;
mod password;
mod periodic;
mod prepare;
mod purge;
mod shell;
mod token;

pub use attempts::{AttemptLimits, Attempts, Tried};
pub use backup::Backups;
pub use breached::{BreachedPasswords, check_breached_passwords, is_breached};
pub use budget::{Budgets, LEASE_BYTES};
pub use call::{Call, CommitHook, Turn};
pub use clock::{now_ms, random_bytes};
pub use denials::{Denial, Denials};
pub use mail::{Delivering, Mails, Outbound, Post, Undelivered};
pub use node::{Limits, Node, NodeParts};
pub use passkey::{PasskeySite, Passkeys};
pub use password::PasswordHashing;
pub use periodic::{sweeper, wake_clock};
pub use purge::Purges;
pub use token::{SignUpPolicy, TokenError, Tokens, is_attested};
