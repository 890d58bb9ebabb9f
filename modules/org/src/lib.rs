//! Organisations, projects and grants
