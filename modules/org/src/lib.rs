//! Organisations, their projects, and who may do what in them.

mod grants;
mod org;
mod project;
mod projects;

pub use grants::GRANTS;
pub use org::{ORG, org};
pub use project::project;
pub use projects::{PROJECTS, project_by_slug};
