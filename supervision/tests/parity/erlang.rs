//! The other side: OTP's supervisor, in one virtual machine for all scenarios.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::scenario::{Scenario, Trace};

/// The traces of `scenarios`, in their order.
pub(crate) fn perform(scenarios: &[Scenario]) -> Vec<Trace> {
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("canopy-parity-{}-{number}.txt", std::process::id()));
    let text: String = scenarios.iter().map(Scenario::text).collect();
    std::fs::write(&file, text).expect("the folder for temporary files can be written");
    let stage = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/stage.erl");
    let output = Command::new("escript").arg(&stage).arg(&file).output();
    std::fs::remove_file(&file).expect("it was just written");
    let output = output.unwrap_or_else(|error| {
        panic!(
            "cannot run escript ({error}): these tests need Erlang/OTP 24 or newer; `.ci/test` installs it where there \
             is apt-get, else install it (Debian: erlang-base; Fedora, Alpine, Homebrew: erlang)"
        )
    });
    let answer = String::from_utf8(output.stdout).expect("ids are ASCII");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "stage.erl failed:\n{errors}\n{answer}");
    let mut traces: Vec<Trace> = Vec::new();
    let mut ended = false;
    for line in answer.lines() {
        match line.strip_prefix("end ") {
            Some(count) => ended = count == scenarios.len().to_string(),
            None if line.starts_with("== ") => traces.push(vec![line.to_owned()]),
            None => traces.last_mut().expect("begins with a name").push(line.to_owned()),
        }
    }
    assert!(ended && traces.len() == scenarios.len(), "stage.erl stopped early:\n{errors}\n{answer}");
    traces
}
