//! A configuration from texts in place of a file, an environment and a command line.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::PathBuf;

use canopy_config::{ConfigError, LoadRequest, Loaded, Problem, load};

/// What one test loads.
#[derive(Default)]
pub(crate) struct Sources<'a> {
    pub(crate) file: Option<&'a str>,
    pub(crate) env: &'a [(&'a str, &'a str)],
    pub(crate) overrides: &'a [(&'a str, &'a str)],
}

impl Sources<'_> {
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file: Option<PathBuf> = self.file.map(|text| {
            let path = directory.path().join("canopy.toml");
            std::fs::write(&path, text).expect("a temporary file");
            path
        });
        load(LoadRequest { file, env: owned(self.env), overrides: owned(self.overrides) })
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.load().err().map(|error| error.problems).unwrap_or_default()
    }

    /// Each problem as printed, without the temporary directory.
    pub(crate) fn messages(&self) -> Vec<String> {
        let printed = |problem: &Problem| {
            let text = problem.to_string();
            match text.find("canopy.toml") {
                Some(name) => {
                    let start = text.get(..name).and_then(|before| before.rfind([' ', '(']));
                    let start = start.map_or(0, |space| space + 1);
                    let (before, after) = (text.get(..start), text.get(name..));
                    format!("{}{}", before.unwrap_or_default(), after.unwrap_or_default())
                }
                None => text,
            }
        };
        self.problems().iter().map(printed).collect()
    }
}

pub(crate) fn file(text: &str) -> Sources<'_> {
    Sources { file: Some(text), ..Sources::default() }
}

pub(crate) fn env<'a>(variables: &'a [(&'a str, &'a str)]) -> Sources<'a> {
    Sources { env: variables, ..Sources::default() }
}

pub(crate) fn overrides<'a>(pairs: &'a [(&'a str, &'a str)]) -> Sources<'a> {
    Sources { overrides: pairs, ..Sources::default() }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
