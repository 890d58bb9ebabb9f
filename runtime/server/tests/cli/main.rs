//! The command line, without a Canopy server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that panics has failed")]

mod calls;
mod cli_stage;
mod context;
mod login;
mod mirror;
mod output;
mod request;
