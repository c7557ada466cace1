//! What is wrong with each `config_errors/*.toml` is exactly what the `.stderr` beside it says.
//!
//! `BLESS=1 cargo test --test config_errors` writes what is found; read the difference before committing it.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

use bascule::config;

#[test]
fn every_mistake_is_reported_at_its_place() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for file in files() {
        let found = match config::check_all_nodes(&file) {
            Ok(warnings) => warnings.to_string(),
            Err(errors) => errors.to_string(),
        };
        let expected = file.with_extension("stderr");
        if bless {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{} is not what is found:\n{found}", expected.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_secret_is_printed() {
    for file in files() {
        let text = fs::read_to_string(file.with_extension("stderr")).unwrap();
        assert!(!text.contains("hunter"), "{} shows a secret", file.display());
    }
}

/// Relative to the package, so that the messages are the same everywhere.
fn files() -> Vec<PathBuf> {
    let folder = Path::new("tests/config_errors");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() > 20, "{files:?}");
    files
}
