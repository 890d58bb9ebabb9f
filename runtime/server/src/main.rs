//! The program: the server and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    canopy::run(std::env::args_os().collect())
}
