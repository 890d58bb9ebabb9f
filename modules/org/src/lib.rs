//! Organisations, their projects and backups, who may do what in them, and who
//! did.

mod access;
mod audit;
pub mod audit_chain;
mod backup;
mod backups;
mod departures;
mod environments;
mod grants;
mod invitations;
mod members;
mod org;
mod org_end;
mod project;
mod project_end;
mod projects;
mod quota;
mod slugs;

pub use audit::{audit, entries as audit_entries, head as audit_head};
pub use backup::backup;
pub use grants::GRANTS;
pub use org::{ORG, org};
pub use project::project;
pub use projects::{PROJECTS, project_by_slug};
pub use quota::QUOTA;
