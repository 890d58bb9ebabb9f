//! Organisations, their projects and backups, and who may do what in them.

mod access;
mod backup;
mod backups;
mod environments;
mod grants;
mod invitations;
mod members;
mod org;
mod org_end;
mod project;
mod project_end;
mod projects;
mod slugs;

pub use backup::backup;
pub use grants::GRANTS;
pub use org::{ORG, org};
pub use project::project;
pub use projects::{PROJECTS, project_by_slug};
