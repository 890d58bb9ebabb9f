//! The Canopy server and its command line.

pub mod boot;
pub mod commands;
pub mod cli;
pub mod edge;
pub mod subscription;
pub mod telemetry;
