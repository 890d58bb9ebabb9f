//! The command line, without a Canopy server.

mod calls;
mod cli_stage;
mod context;
mod login;
mod mirror;
mod output;
mod request;
