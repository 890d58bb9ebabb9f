//! Writes a data directory in this release's format, for the tests that open
//! old formats (`tests/store/formats.rs`):
//!
//! ```sh
//! cargo run -p canopy-store --example fixture -- format-1
//! tar -C format-1 -czf runtime/store/tests/fixtures/format-1.tar.gz .
//! ```
//!
//! A fixture is never written again: later releases read it as it is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a program of the tests")]

use std::fs;
use std::path::Path;

use canopy_domain::Secret;
use canopy_store::{Store, StoreOptions, Unlock};

#[path = "../tests/store/formats_content.rs"]
#[allow(dead_code, reason = "the tests read what this writes")]
mod content;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name the directory to write, which must not exist")?;
    let path = Path::new(&path);
    if path.exists() {
        return Err("a fixture is never written again".into());
    }
    let store = Store::open(StoreOptions::new(path, Unlock::Key(Secret::new(content::KEY))))?;
    for address in content::addresses() {
        let mut writer = store.writer(&address, &content::views(&address)).await?;
        for commit in content::commits(&address) {
            writer.submit(commit).await?;
        }
    }
    store.close().await?;
    trim(path)?;
    Ok(())
}

/// Journals are allocated far beyond what is written in them.
fn trim(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() {
            trim(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "jnl") {
            let bytes = fs::read(&path)?;
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            fs::OpenOptions::new().write(true).open(&path)?.set_len(end as u64)?;
        }
    }
    Ok(())
}
