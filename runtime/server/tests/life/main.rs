//! The program's life: start, use, kill, drain.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod audit;
mod backups;
mod command_line;
mod crash;
mod drain;
#[path = "../server/harness/mod.rs"]
mod harness;
mod process;
mod purge;
mod quotas;
mod recovery;
mod web;
