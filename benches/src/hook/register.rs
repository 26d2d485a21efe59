//! inotify_add_watch, some thousand times.

use std::path::Path;

use tempfile::TempDir;

use super::{Libraries, Size, row, spawn, text};
use crate::Failure;
use crate::report::Table;
use agentfs_testkit::scripted::Scripted;

/// Microseconds of a call, round by round.
#[derive(Default)]
struct Found {
    without: Vec<f64>,
    elsewhere: Vec<f64>,
    on_agentfs: Vec<f64>,
}

pub(super) fn table(libraries: &Libraries, size: Size) -> Result<Table, Failure> {
    let Found {
        without,
        elsewhere,
        on_agentfs,
    } = measure(libraries, size)?;
    let beside = |goal| Some(("without", without.as_slice(), goal));
    let rows = [
        row("without the library", &without, None),
        row("with it, not on AgentFS", &elsewhere, beside(None)),
        row("with it, on AgentFS", &on_agentfs, beside(Some(2.0))),
    ];
    let title = format!("{} calls of inotify_add_watch", size.watches);
    Ok(Table::new(title, "microseconds per call", rows))
}

fn measure(libraries: &Libraries, size: Size) -> Result<Found, Failure> {
    let mut found = Found::default();
    if !size.measures {
        return Ok(found);
    }
    let tree = TempDir::new_in("/dev/shm")?;
    for number in 0..size.watches {
        std::fs::create_dir(tree.path().join(number.to_string()))?;
    }
    let (path, count) = (text(tree.path()), size.watches.to_string());
    let words = ["register", path.as_str(), count.as_str()];
    let library = Some(libraries.shim.as_path());
    for _ in 0..size.rounds {
        found.without.push(each(None, None, &words)?);
        found.elsewhere.push(each(library, None, &words)?);
        let daemon = Scripted::start(tree.path());
        found
            .on_agentfs
            .push(each(library, Some(&daemon.socket()), &words)?);
        let registered = daemon.registrations().len();
        if registered < size.watches {
            let watches = size.watches;
            return Err(format!("{registered} of {watches} watches were registered").into());
        }
    }
    Ok(found)
}

/// Runs a program that registers watches, and returns the microseconds of a call.
fn each(library: Option<&Path>, socket: Option<&Path>, words: &[&str]) -> Result<f64, Failure> {
    let program = spawn::start(library, socket, words)?;
    Ok(program.answer()?.parse()?)
}
