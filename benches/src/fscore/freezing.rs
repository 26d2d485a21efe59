//! Freezing a project, against cp of the same project to the same disk.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use agentfs_core::{BackstoreMode, Caller, FsConfig, FsCore, Overlay};
use agentfs_daemon::{Config, Daemon};

use super::Size;
use super::race::{Race, nanos_each};
use crate::goal::Goal;
use crate::report::Grid;
use crate::statistics::Spread;

/// Files in a directory of the project.
const FILES_IN_DIR: u32 = 50;

/// What was measured of frozen branches.
#[derive(Debug, serde::Serialize)]
pub(super) struct Freezing {
    files: u32,
    mebibytes: u32,
    /// The first frozen branch of a project, against cp.
    first: Race,
    /// Milliseconds for the next one, when nothing has changed: with a watched project, and without.
    watched: Spread,
    unwatched: Spread,
}

pub(super) fn measure(size: Size) -> io::Result<Freezing> {
    let [files, mebibytes] = size.project;
    let (mut first, mut watched, mut unwatched) = (Vec::new(), Vec::new(), Vec::new());
    if size.rounds > 0 {
        let dir = tempfile::tempdir()?;
        let project = dir.path().join("project");
        make(&project, files, mebibytes)?;
        let daemon = daemon_over(&project, dir.path())?;
        freeze(daemon.core(), "first")?;
        // The files are in the page cache from here on, for both.
        for round in 0..size.freezes {
            let copy = dir.path().join("copy");
            let store = dir.path().join("store");
            let fs = core_over(&project, &store)?;
            let (mut one, mut other) = (Ok(()), Ok(()));
            let ours = nanos_each(files, || one = freeze(&fs, "first"));
            let theirs = nanos_each(files, || other = cp(&project, &copy));
            one.and(other)?;
            first.push((ours, theirs));
            let name = format!("next {round}");
            for (core, times) in [(daemon.core(), &mut watched), (&fs, &mut unwatched)] {
                let mut done = Ok(());
                times.push(nanos_each(1, || done = freeze(core, &name)) / 1e6);
                done?;
            }
            drop(fs);
            fs::remove_dir_all(&store)?;
            fs::remove_dir_all(&copy)?;
        }
    }
    Ok(Freezing {
        files,
        mebibytes,
        first: Race::of(
            "the first frozen branch against cp -a --reflink=auto",
            &first,
        ),
        watched: Spread::of(watched),
        unwatched: Spread::of(unwatched),
    })
}

/// Makes a project of files of different sizes, which have so many MiB together.
fn make(project: &Path, files: u32, mebibytes: u32) -> io::Result<()> {
    let mean = (u64::from(mebibytes) << 20) / u64::from(files);
    for number in 0..files {
        let dir = project.join(format!("dir-{}", number / FILES_IN_DIR));
        if number % FILES_IN_DIR == 0 {
            fs::create_dir_all(&dir)?;
        }
        // From a fourth of the mean to seven fourths.
        let len = mean / 4 + mean * u64::from(number % 13) / 8;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        fs::write(dir.join(format!("file-{number}")), vec![b'a'; len])?;
    }
    Ok(())
}

fn core_over(project: &Path, store: &Path) -> io::Result<FsCore> {
    let config = FsConfig {
        overlay: Some(Overlay {
            lower: project.to_owned(),
        }),
        backstore: BackstoreMode::Disk(store.to_owned()),
        ..FsConfig::default()
    };
    FsCore::new(config).map_err(io::Error::other)
}

/// Starts a daemon, which watches the project.
fn daemon_over(project: &Path, dir: &Path) -> io::Result<Daemon> {
    let mut config = Config::new(dir.join("socket"));
    config.lower = Some(project.to_owned());
    config.store = Some(dir.join("watched"));
    Daemon::start(config).map_err(io::Error::other)
}

fn freeze(fs: &FsCore, name: &str) -> io::Result<()> {
    let never = AtomicBool::new(false);
    let made = fs.branch_create_frozen(&Caller::root(), FsCore::MAIN, name, &never);
    made.map(drop).map_err(io::Error::other)
}

fn cp(project: &Path, copy: &Path) -> io::Result<()> {
    let mut cp = Command::new("cp");
    let status = cp
        .args(["-a", "--reflink=auto"])
        .arg(project)
        .arg(copy)
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("cp: {status}"))),
    }
}

impl Freezing {
    /// Returns what was to be reached.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let of = format!("{} files of {} MiB", self.files, self.mebibytes);
        vec![
            Goal::at_most(
                1.5,
                "of cp",
                format!("{}, {of}", self.first.what),
                self.first.ratio,
            ),
            Goal::at_most(
                10.0,
                "ms",
                format!("the next frozen branch, watched, {of}"),
                self.watched,
            ),
        ]
    }

    /// Returns the table.
    pub(super) fn grid(&self) -> Grid {
        let head = ["what", "median (min to max)", "goal"];
        let mut grid = Grid::new("Frozen branches", &head);
        let seconds = |spread: &Spread| spread.median * f64::from(self.files) / 1e9;
        let (ours, theirs) = (seconds(&self.first.ours), seconds(&self.first.theirs));
        let beside = [
            format!(" ({ours:.2} s against {theirs:.2} s)"),
            String::new(),
        ];
        for (goal, beside) in self.goals().into_iter().zip(beside) {
            let measured = format!("{}{beside}", goal.figure());
            grid.rows
                .push(vec![goal.what.clone(), measured, goal.verdict()]);
        }
        let Spread {
            median, min, max, ..
        } = self.unwatched;
        grid.rows.push(vec![
            "the next frozen branch, unwatched".to_owned(),
            format!("{median:.0} ms ({min:.0} to {max:.0})"),
            String::new(),
        ]);
        grid.goals = self.goals();
        grid
    }
}
