//! The command line as somebody sees it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use canopy::cli::{self, Exit, Terminal};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).expect("text")
    }
}

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command line, split at spaces, with what is kept in `home`: how it ends, and what it says on both streams.
pub async fn run(home: &Path, line: &str) -> (Exit, String) {
    let (stdout, stderr) = (Kept::default(), Kept::default());
    let mut terminal = Terminal {
        stdin: Box::new(io::empty()),
        stdin_is_terminal: false,
        stdout: Box::new(stdout.clone()),
        stdout_is_terminal: false,
        stderr: Box::new(stderr.clone()),
        env: HashMap::from([("CANOPY_CONFIG_HOME".into(), home.display().to_string())]),
        now_ms: canopy_actors::now_ms,
        prompt: Box::new(|_| Err(io::ErrorKind::Unsupported.into())),
        interrupt: Box::pin(std::future::pending()),
    };
    let args = line.split(' ').map(Into::into).collect();
    let exit = cli::run(args, &mut terminal).await;
    (exit, stdout.text() + &stderr.text())
}
