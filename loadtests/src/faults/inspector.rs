//! The process that inspects: one line in, one line out. A process of its own, so that a store that
//! aborts or hangs ends it and not the attack.

use std::io::{BufRead, Write};

use parking_lot::Mutex;

use super::finding::{Finding, Kind, Verdict};
use super::inspect::{Inspection, inspect};

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Inspects what standard input asks for, until it ends.
///
/// # Errors
/// A line is not an inspection, or nobody reads the answers.
pub async fn serve() -> std::io::Result<()> {
    std::panic::set_hook(Box::new(|info| PANICS.lock().push(info.to_string().replace('\n', " "))));
    let mut line = String::new();
    while std::io::stdin().lock().read_line(&mut line)? > 0 {
        let inspection: Inspection = serde_json::from_str(&line)?;
        line.clear();
        let mut verdict = tokio::spawn(async move { inspect(&inspection).await }).await.unwrap_or_else(|error| {
            Verdict { findings: vec![Finding::new(Kind::Panic, error.to_string())], ..Verdict::default() }
        });
        verdict.contained_panics = std::mem::take(&mut *PANICS.lock());
        if let Some(finding) = verdict.findings.iter_mut().find(|finding| finding.kind == Kind::Panic) {
            finding.text = format!("{}: {}", finding.text, verdict.contained_panics.join("; "));
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&verdict)?)?;
        out.flush()?;
    }
    Ok(())
}
