//! Checks the project's own rules over the source text. Each complaint says what to do.

mod layers;
mod links;
mod platform;
mod ring;
mod rules;
mod unsafe_files;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) use self::ring::renew_abi_hash;

use crate::report::{Failure, Outcome, StepResult};

/// A source file or document: its path from the top of the tree, with forward slashes, and its text.
#[derive(Debug)]
pub(crate) struct Source {
    path: String,
    text: String,
}

/// Checks every rule and lists everything found.
pub(crate) fn check() -> StepResult {
    let sources = texts("rs")?;
    let documents = texts("md")?;
    let mut found = Vec::new();
    for source in &sources {
        found.extend(rules::length(source));
        found.extend(unsafe_files::listed(source));
        found.extend(ring::orderings(source));
        found.extend(platform::inside_functions(source));
        found.extend(rules::no_includes(source));
        found.extend(rules::no_ignored_tests(source));
        found.extend(rules::no_sleeping_tests(source));
        found.extend(rules::telling_names(source));
    }
    found.extend(unsafe_files::needed(&sources));
    found.extend(rules::flow_lines(&sources));
    found.extend(rules::testkit_is_for_tests());
    found.extend(layers::check(&sources));
    found.extend(ring::labels(&sources));
    found.extend(ring::abi_hash()?);
    found.extend(links::links(&documents));
    if found.is_empty() {
        let count = sources.len() + documents.len();
        return Ok(Outcome::Note(format!("{count} files")));
    }
    for complaint in &found {
        println!("{complaint}");
    }
    Err(Failure::new(format!(
        "{} rules broken, see above",
        found.len()
    )))
}

/// Where the code of others lies, which the rules are not for.
const VENDORED: &str = "vendor";

/// Returns every file with this extension that git knows or could add, but for the code of others.
fn texts(extension: &str) -> Result<Vec<Source>, Failure> {
    let listing = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .arg(format!("*.{extension}"))
        .output();
    let paths: Vec<PathBuf> = match listing {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(PathBuf::from)
            .collect(),
        _ => walk(Path::new("."), extension)?,
    };
    paths
        .into_iter()
        .filter(|path| {
            path.is_file() && !path.strip_prefix(".").unwrap_or(path).starts_with(VENDORED)
        })
        .map(|path| {
            let text = read(&path)?;
            let path = path.strip_prefix(".").unwrap_or(&path);
            let path = path.to_string_lossy().replace('\\', "/");
            Ok(Source { path, text })
        })
        .collect()
}

/// Returns the files with this extension in a tree without git.
fn walk(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, Failure> {
    let failure = |error: std::io::Error| Failure::new(format!("{}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(walk(&path, extension)?);
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}
