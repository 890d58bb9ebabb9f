//! The Canopy server and its command line.

pub mod boot;
pub mod cli;
pub mod commands;
pub mod edge;
pub mod post;
pub mod subscription;
pub mod telemetry;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::Terminal;

/// Runs the program with its arguments, the program's name first.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let mut terminal = Terminal::of_process();
    let command = cli::command().subcommands(commands::commands());
    let matches = match cli::parse(command, args, &mut terminal) {
        Ok(matches) => matches,
        Err(exit) => return exit.into(),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            terminal.note(&format!("error: the machine gives no threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(async {
        match commands::dispatch(&matches, &mut terminal).await {
            Some(exit) => exit,
            None => cli::dispatch(&matches, &mut terminal).await.unwrap_or(cli::Exit::Usage),
        }
    });
    exit.into()
}
