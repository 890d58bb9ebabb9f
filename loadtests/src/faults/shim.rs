//! The shim between a victim and libc: `shim.c`, compiled where it is used.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::LoadError;

const SOURCE: &str = include_str!("shim.c");

/// The compiled shim.
#[derive(Clone, Debug)]
pub struct Shim {
    library: PathBuf,
}

/// Calls that fail: of those whose letter is in `kinds` (see `shim.c`) the `first`, from 1, and those
/// after it, `count` in all.
#[derive(Clone, Debug)]
pub struct Failure {
    pub kinds: &'static str,
    pub first: u64,
    pub count: u64,
    pub errno: i32,
}

impl Shim {
    /// Compiles it into `under` with the system's C compiler.
    ///
    /// # Errors
    /// There is no `cc`, or it refuses.
    pub fn compile(under: &Path) -> Result<Self, LoadError> {
        let (source, library) = (under.join("shim.c"), under.join("shim.so"));
        std::fs::write(&source, SOURCE).map_err(LoadError::io("write the shim"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        let output = compiler.args(["-lpthread", "-ldl"]).output().map_err(LoadError::io("start `cc`"))?;
        if output.status.success() {
            return Ok(Self { library });
        }
        Err(LoadError::Subject(format!("`cc` refuses the shim: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// The environment of a victim in `dir`.
    pub fn environment(&self, dir: &Path, log: Option<&Path>, failure: Option<&Failure>) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let mut variables = vec![("LD_PRELOAD".into(), text(&self.library)), ("FAULTS_ROOT".into(), text(dir))];
        variables.extend(log.map(|log| ("FAULTS_LOG".into(), text(log))));
        variables.extend(failure.map(|Failure { kinds, first, count, errno }| {
            ("FAULTS_FAIL".into(), format!("{kinds} {first} {count} {errno}"))
        }));
        variables
    }
}
