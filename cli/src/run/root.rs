//! Finds the directory that a run is about, and where its command starts.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use agentfs_proto::message::ProjectPlace;

use crate::common::Common;
use crate::output::failure::Failure;
use crate::project::{Daemon, Found, Identity};

/// The directories of a run.
#[derive(Debug)]
pub(super) struct Root {
    /// The directory below the branch, where the branch is mounted.
    pub(super) project: PathBuf,
    /// Where the command starts.
    pub(super) directory: PathBuf,
}

/// Returns the directory that the user named, or the nearest one upwards that a daemon has or that is the
/// root of a git repository, or the current one.
pub(super) fn find(common: &Common, named: Option<PathBuf>) -> Result<Root, Failure> {
    let start = common.start();
    let is_found = named.is_none();
    let project = match (named, &start) {
        (Some(named), _) => {
            fs::canonicalize(&named).map_err(|error| Failure::directory(&named, &error))?
        }
        (None, Ok(start)) => upwards(common, start)?,
        (None, Err(_)) => common.start()?,
    };
    if project == Path::new("/") {
        let text = "a branch of / cannot be mounted on it; name a directory with --lower";
        return Err(Failure::Other(text.to_owned()));
    }
    let directory = start.unwrap_or_else(|_| project.clone());
    if is_found && directory != project && !common.json {
        let line = format!(
            "agentfs: the project is {}; --lower DIR takes another directory",
            project.display()
        );
        // If the line cannot be written, the end of the run names the project again.
        drop(writeln!(io::stderr(), "{line}"));
    }
    Ok(Root { project, directory })
}

fn upwards(common: &Common, start: &Path) -> Result<PathBuf, Failure> {
    let daemon = match common.find()? {
        Found::Over(daemon) => Some(daemon),
        Found::Named(socket) => Daemon::ask(&socket)?,
        Found::Mounted(..) | Found::Nothing(_) => None,
    };
    let known = daemon.filter(is_in_place);
    let device = fs::metadata(start).map(|it| it.dev());
    let is_root = |directory: &&Path| {
        let has = |it: &Daemon| Identity::of(directory).is_ok_and(|identity| it.has(identity));
        known.as_ref().is_some_and(has) || is_repository(directory)
    };
    // What is mounted below a project is not in its branches.
    let is_same = |directory: &&Path| match (fs::metadata(directory), &device) {
        (Ok(found), Ok(device)) => found.dev() == *device,
        _ => false,
    };
    let mut candidates = start.ancestors().take_while(is_same);
    let found = candidates.find(is_root).unwrap_or(start);
    Ok(found.to_owned())
}

/// Returns whether git takes a directory for the root of a repository, and the directory belongs to the
/// user: no other user may decide what is mounted on and applied to.
fn is_repository(directory: &Path) -> bool {
    let uid = rustix::process::geteuid().as_raw();
    let is_own = |path: &Path| fs::metadata(path).is_ok_and(|it| it.uid() == uid);
    directory != Path::new("/") && is_own(directory) && is_own(&directory.join(".git"))
}

/// Returns whether the path of a daemon's directory still leads to it.
pub(super) fn is_in_place(daemon: &Daemon) -> bool {
    daemon.project.place == ProjectPlace::InPlace
}
