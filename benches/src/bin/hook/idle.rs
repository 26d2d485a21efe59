//! Wake-ups of programs that wait and hear nothing.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use agentfs_benches::Spread;
use agentfs_benches::goal::Goal;
use agentfs_benches::table::Table;
use agentfs_testkit::scripted::Scripted;

use super::sleep::with_kqueue;
use super::{Failure, Program, row};

pub(super) fn idle(library: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let seconds = if quick { 1 } else { 10 };
    let tree = tempfile::TempDir::new_in("/dev/shm")?;
    let daemon = Scripted::start(tree.path());
    let socket = daemon.socket();
    let watched = tree.path().join("watched");
    File::create(&watched)?;
    let both = with_kqueue(library)?;
    let start = |library: &Path, kind, path: &Path| {
        let path = path.to_string_lossy();
        Program::start(Some(library), Some(&socket), &["wake", kind, &path])
    };
    let mut programs = [
        start(library, "inotify", tree.path())?,
        start(&both, "kqueue", &watched)?,
    ];
    for program in &mut programs {
        program.stdin.write_all(b"\n")?;
        program.line()?;
    }
    std::thread::sleep(Duration::from_millis(200));
    let switches = || -> Result<Vec<f64>, Failure> {
        let counts = programs.iter().map(|it| switches(it.child.id()));
        counts.collect()
    };
    let before = switches()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = switches()?;
    let title = format!("A program that hears nothing for {seconds} s");
    let calls = ["read()", "kevent(), in user space"];
    let (mut rows, mut goals) = (Vec::new(), Vec::new());
    for ((call, before), after) in calls.into_iter().zip(before).zip(after) {
        let wakes = after - before;
        let what = format!("{title}, asleep in {call}");
        goals.push(Goal::at_most(
            0.0,
            "wake-ups",
            what,
            Spread::of(vec![wakes]),
        ));
        rows.push(row(&format!("asleep in {call}"), &[wakes], None));
    }
    Ok(vec![Table {
        title,
        unit: "wake-ups".to_owned(),
        also: String::new(),
        further: goals,
        rows,
    }])
}

/// How often the threads of a process gave their processor back, or were made to.
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
