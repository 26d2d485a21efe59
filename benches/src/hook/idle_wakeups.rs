//! Wake-ups of programs that wait and hear nothing.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::{Libraries, Size, row, spawn, text};
use crate::Failure;
use crate::goal::Goal;
use crate::report::Table;
use crate::statistics::Spread;
use agentfs_testkit::scripted::Scripted;

const CALLS: [&str; 2] = ["read()", "kevent(), in user space"];

pub(super) fn table(libraries: &Libraries, size: Size) -> Result<Table, Failure> {
    let title = format!("A program that hears nothing for {} s", size.idle_seconds);
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for (call, wakes) in CALLS.into_iter().zip(measure(libraries, size)?) {
        rows.push(row(&format!("asleep in {call}"), &wakes, None));
        let what = format!("{title}, asleep in {call}");
        goals.push(Goal::at_most(0.0, "wake-ups", what, Spread::of(wakes)));
    }
    Ok(Table::new(title, "wake-ups", rows).and_goals(goals))
}

/// Returns the wake-ups of the program in each call.
fn measure(libraries: &Libraries, size: Size) -> Result<[Vec<f64>; 2], Failure> {
    if !size.measures {
        return Ok(Default::default());
    }
    let tree = TempDir::new_in("/dev/shm")?;
    let daemon = Scripted::start(tree.path());
    let socket = daemon.socket();
    let watched = tree.path().join("watched");
    File::create(&watched)?;
    let both = libraries.both()?;
    let start = |library: &Path, kind, path: &Path| {
        spawn::start(Some(library), Some(&socket), &["wake", kind, &text(path)])
    };
    let mut programs = [
        start(&libraries.shim, "inotify", tree.path())?,
        start(&both, "kqueue", &watched)?,
    ];
    for program in &mut programs {
        program.say("")?;
        program.answer()?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let switches = || -> Result<Vec<f64>, Failure> {
        let counts = programs.iter().map(|it| switches(it.id()));
        counts.collect()
    };
    let before = switches()?;
    std::thread::sleep(Duration::from_secs(size.idle_seconds));
    let after = switches()?;
    let mut wakes: [Vec<f64>; 2] = Default::default();
    for (wakes, (before, after)) in wakes.iter_mut().zip(before.into_iter().zip(after)) {
        wakes.push(after - before);
    }
    Ok(wakes)
}

/// Returns how often the threads of a process gave their processor back, or were made to.
fn switches(process: u32) -> Result<f64, Failure> {
    let mut switches = 0.0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let counts = status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .filter_map(|line| line.split_ascii_whitespace().last()?.parse::<f64>().ok());
        switches += counts.sum::<f64>();
    }
    Ok(switches)
}
