//! Organisations, their projects and backups, and who may do what in them.

mod backup;
mod backups;
mod grants;
mod invitations;
mod org;
mod project;
mod projects;

pub use backup::backup;
pub use grants::GRANTS;
pub use org::{ORG, org};
pub use project::project;
pub use projects::{PROJECTS, project_by_slug};
