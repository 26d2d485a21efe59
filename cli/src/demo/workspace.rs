//! The directory of the demo: a project, and around it what a user has.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agentfs_proto::socket::{self, SOCKET_VARIABLE, SocketPathError};

use crate::environment::{BRANCH_VARIABLE, TOKEN_VARIABLE};
use crate::output::failure::Failure;
use crate::platform;

/// How long a process may take to end when it is asked to.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the project holds.
const FILES: [(&str, &str); 2] = [
    ("README", "A collection of greetings.\n"),
    ("greetings.txt", "hello\n"),
];

/// The directory; it and the processes that were started in it end with this value.
#[derive(Debug)]
pub(super) struct Workspace {
    directory: PathBuf,
    is_removed: bool,
}

/// Where a daemon says that it is ready (sd_notify(3)).
#[derive(Debug)]
pub(super) struct ReadySocket {
    pub(super) path: PathBuf,
    pub(super) socket: UnixDatagram,
}

impl Workspace {
    /// Makes the directory. From then on, processes that the demo's commands leave behind are children
    /// of this process.
    pub(super) fn create() -> Result<Self, Failure> {
        platform::adopt_orphans();
        let parent = std::env::temp_dir();
        let failed = |error: io::Error| {
            let parent = parent.display();
            Failure::Other(format!(
                "no directory for the demo can be made in {parent}: {error}; name another one in TMPDIR"
            ))
        };
        let parent = fs::canonicalize(&parent).map_err(failed)?;
        if parent.as_os_str().as_bytes().contains(&b':') {
            return Err(unsuitable(
                &parent,
                "has a colon, which separates the directories in PATH",
            ));
        }
        let workspace = Self {
            directory: new_directory(&parent).map_err(failed)?,
            is_removed: false,
        };
        workspace.fill().map_err(failed)?;
        match socket::prepare(&workspace.longest_socket()) {
            Ok(()) => Ok(workspace),
            Err(SocketPathError::TooLong(_)) => Err(unsuitable(
                &parent,
                "is too long for the path of a socket below it",
            )),
            Err(error) => Err(Failure::Other(error.to_string())),
        }
    }

    fn fill(&self) -> io::Result<()> {
        // The root of a repository, so that it is the project wherever the directory is.
        for name in ["project", "project/.git", "runtime", "state", "bin"] {
            private_directory(&self.directory.join(name))?;
        }
        for (name, content) in FILES {
            fs::write(self.project().join(name), content)?;
        }
        symlink(std::env::current_exe()?, self.directory.join("bin/agentfs"))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn project(&self) -> PathBuf {
        self.directory.join("project")
    }

    fn runtime(&self) -> PathBuf {
        self.directory.join("runtime")
    }

    /// Returns a path as long as that of the socket at which a run's daemon listens.
    fn longest_socket(&self) -> PathBuf {
        let default = socket::path_for(None, Some(self.runtime().into_os_string()), 0);
        socket::project_path(&default, &self.project(), 0, 0)
    }

    /// Returns a command in the project, which finds this `agentfs` and no daemon of the user's.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut path = self.directory.join("bin").into_os_string();
        if let Some(others) = std::env::var_os("PATH") {
            path.push(":");
            path.push(others);
        }
        let mut command = Command::new(program);
        command
            .env("PATH", path)
            .env("XDG_RUNTIME_DIR", self.runtime())
            .env("XDG_STATE_HOME", self.directory.join("state"))
            .current_dir(self.project());
        let foreign = [SOCKET_VARIABLE, BRANCH_VARIABLE, TOKEN_VARIABLE];
        for name in foreign
            .into_iter()
            .chain(["LD_PRELOAD", "NOTIFY_SOCKET", "ENV"])
        {
            command.env_remove(name);
        }
        command
    }

    /// Returns whether a program of this name is installed.
    pub(super) fn has_program(&self, name: &str) -> bool {
        let all: OsString = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&all).any(|it| it.join(name).is_file())
    }

    /// Makes a socket on which one daemon says that it is ready.
    pub(super) fn ready_socket(&self) -> Result<ReadySocket, Failure> {
        let path = self.directory.join("ready");
        match UnixDatagram::bind(&path) {
            Ok(socket) => Ok(ReadySocket { path, socket }),
            Err(error) => Err(Failure::Other(format!("{}: {error}", path.display()))),
        }
    }

    /// Ends the processes that commands of the demo left behind, as `run` leaves its daemon. They have the
    /// runtime directory that [`command`](Self::command) sets; other children of this process do not.
    /// Returns whether none is left.
    pub(super) fn end_processes(&self) -> bool {
        let mut entry = OsString::from("XDG_RUNTIME_DIR=");
        entry.push(self.runtime());
        platform::end_children_with(&entry, PATIENCE)
    }

    /// Ends what still runs and removes the directory.
    pub(super) fn remove(mut self) -> Result<(), Failure> {
        self.is_removed = true;
        let directory = self.directory.display();
        let mut failures = Vec::new();
        if !self.end_processes() {
            failures.push(format!(
                "a process that was started in {directory} does not end; `ps` shows it"
            ));
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            failures.push(format!("{directory} cannot be removed: {error}"));
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(Failure::Other(failures.join("; ")))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if self.is_removed {
            return;
        }
        if !self.end_processes() {
            tracing::warn!("a process of the demo does not end");
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "the demo's directory stays");
        }
    }
}

/// Returns the failure for a directory for temporary files in which the demo cannot work.
fn unsuitable(parent: &Path, why: &str) -> Failure {
    Failure::Other(format!(
        "the demo cannot work in {}: it {why}; name another directory in TMPDIR: TMPDIR=/tmp agentfs demo",
        parent.display()
    ))
}

/// Makes a new directory, which no other user may enter.
fn new_directory(parent: &Path) -> io::Result<PathBuf> {
    let mut number = std::process::id();
    loop {
        let directory = parent.join(format!("agentfs-demo-{number}"));
        match private_directory(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                number = number.wrapping_add(1);
            }
            made => return made.map(|()| directory),
        }
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}
