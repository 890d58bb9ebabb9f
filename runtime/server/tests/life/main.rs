//! The program's life: start, use, kill, drain.

mod command_line;
mod crash;
mod drain;
#[path = "../server/harness/mod.rs"]
mod harness;
mod process;
mod web;
