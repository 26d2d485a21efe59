//! Finds the project that a command is about, and its daemon: upwards from the current directory, as git
//! finds a repository.
//!
//! A daemon has a directory when the device and inode number are the same, whatever the path is. So a
//! directory that was replaced is another project, and one that was moved is the same.

pub(crate) mod connection;
pub(crate) mod export;
pub(crate) mod freezing;
pub(crate) mod settings;
pub(crate) mod size;
pub(crate) mod store;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentfs_client::{CallError, Client, ConnectError, Deadline};
use agentfs_proto::message::{Hello, MountList, Project, ProjectInfo, ProjectPlace};
use agentfs_proto::socket::{self, SOCKET_VARIABLE};

use crate::common::Common;
use crate::output::failure::Failure;
use crate::platform;
use agentfs_export::command::quoted;

/// How long a daemon of perhaps another project may take to answer which project it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// Identifies a directory on this machine by device and inode number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Identity {
    /// Returns the identity of the directory at a path.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let (device, inode) = (found.dev(), found.ino());
        Ok(Self { device, inode })
    }
}

/// A daemon that answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Daemon {
    pub(crate) socket: PathBuf,
    pub(crate) project: ProjectInfo,
}

/// Which daemon a command is about.
#[derive(Debug)]
pub(crate) enum Found {
    /// The daemon at the socket that the user named.
    Named(PathBuf),
    /// The daemon over the directory or one above it.
    Over(Daemon),
    /// The daemon whose branch is mounted on the directory, and the branch.
    Mounted(Daemon, String),
    /// No daemon, but others that are about something else.
    Nothing(Others),
}

/// The daemons that are about something else.
#[derive(Debug)]
pub(crate) struct Others {
    /// The directory from which the search began.
    pub(crate) start: PathBuf,
    /// The one at the default socket.
    pub(crate) default: Option<Daemon>,
    pub(crate) more: Vec<Daemon>,
}

impl Others {
    /// Returns the nearest directory upwards that has branches in a store.
    pub(crate) fn kept(&self) -> Option<PathBuf> {
        let mut above = self.start.ancestors();
        let found = above.find(|it| !it.as_os_str().is_empty() && store::kept_for(it).is_some());
        found.map(Path::to_owned)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Daemon> {
        self.default.iter().chain(&self.more)
    }
}

impl Common {
    /// Returns the socket that the user named by an option, or that the environment names inside of a run.
    pub(crate) fn named_socket(&self) -> Option<PathBuf> {
        let variable = std::env::var_os(SOCKET_VARIABLE).filter(|it| !it.is_empty());
        let variable = variable.filter(|_| self.project.is_none());
        let named = self.socket.clone().or(variable.map(PathBuf::from))?;
        Some(std::path::absolute(&named).unwrap_or(named))
    }

    /// Returns whether the daemon is the one of the run that this process was started in.
    pub(crate) fn is_within_run(&self) -> bool {
        let of_run = Self::default().named_socket();
        of_run.is_some() && self.named_socket() == of_run
    }

    /// Returns the directory from which the project is searched.
    pub(crate) fn start(&self) -> Result<PathBuf, Failure> {
        let named = self.project.as_deref().unwrap_or(Path::new("."));
        fs::canonicalize(named).map_err(|error| Failure::directory(named, &error))
    }

    /// Finds the daemon that the command is about.
    pub(crate) fn find(&self) -> Result<Found, Failure> {
        match self.named_socket() {
            Some(socket) => Ok(Found::Named(socket)),
            // The current directory may be gone; then it is in no project.
            None if self.project.is_none() => search(&self.start().unwrap_or_default()),
            None => search(&self.start()?),
        }
    }

    /// Returns the socket of the daemon that the command is about, or at which one would be started.
    pub(crate) fn socket_path(&self) -> Result<PathBuf, Failure> {
        Ok(match self.find()? {
            Found::Named(socket) => socket,
            Found::Over(daemon) | Found::Mounted(daemon, _) => daemon.socket,
            Found::Nothing(_) => default_socket(),
        })
    }
}

/// Returns the default socket, without regard to `AGENTFS_SOCKET`.
pub(crate) fn default_socket() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    socket::path_for(None, std::env::var_os("XDG_RUNTIME_DIR"), uid)
}

/// Returns the socket of the daemon that is started for a project.
pub(crate) fn socket_for(project: &Path, identity: Identity) -> PathBuf {
    let Identity { device, inode } = identity;
    socket::project_path(&default_socket(), project, device, inode)
}

/// Searches for a project from a directory upwards and takes the nearest one.
pub(crate) fn search(start: &Path) -> Result<Found, Failure> {
    if let Some(found) = by_mount(start) {
        return Ok(found);
    }
    let default = Daemon::ask(&default_socket());
    for directory in start.ancestors() {
        let Ok(identity) = Identity::of(directory) else {
            continue;
        };
        let own = Daemon::ask(&socket_for(directory, identity))?;
        let asked = [own, default.as_ref().ok().cloned().flatten()];
        let mut fitting = asked.into_iter().flatten();
        if let Some(daemon) = fitting.find(|it| it.has(identity)) {
            return Ok(Found::Over(daemon));
        }
    }
    let (default, mut more) = (default?, others());
    // The directory may have been moved, or be bound to another path than its own.
    for directory in start.ancestors() {
        let identity = Identity::of(directory).ok();
        let fits = |it: &Daemon| identity.is_some_and(|identity| it.has(identity));
        if let Some(index) = more.iter().position(fits) {
            return Ok(Found::Over(more.swap_remove(index)));
        }
    }
    let start = start.to_owned();
    Ok(Found::Nothing(Others {
        start,
        default,
        more,
    }))
}

/// Returns the daemons that answer at the sockets of projects.
pub(crate) fn others() -> Vec<Daemon> {
    let default = default_socket();
    let directory = default.parent().and_then(|it| fs::read_dir(it).ok());
    let names = directory.into_iter().flatten().flatten();
    let names = names.map(|it| it.file_name());
    let mut names: Vec<_> = names.filter(|it| socket::is_project_name(it)).collect();
    names.sort();
    let sockets = names.iter().map(|it| default.with_file_name(it));
    sockets
        .filter_map(|it| Daemon::ask(&it).ok().flatten())
        .collect()
}

impl Daemon {
    /// Returns the daemon that listens at a socket, if one does.
    pub(crate) fn ask(socket: &Path) -> Result<Option<Self>, Failure> {
        match Self::connect(socket) {
            Ok((_, daemon)) => Ok(Some(daemon)),
            Err(ConnectError::NoDaemon(_) | ConnectError::Handshake(CallError::Closed)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn connect(socket: &Path) -> Result<(Client, Self), ConnectError> {
        if socket.exists() {
            socket::check(socket).map_err(ConnectError::Path)?;
        }
        let deadline = Deadline::after(PATIENCE);
        let (mut client, _) = Client::connect(socket, Hello::new("agentfs"), deadline)?;
        let project = client.call(Project { flags: 0 }, deadline);
        let project = project.map_err(ConnectError::Handshake)?;
        let socket = socket.to_owned();
        Ok((client, Self { socket, project }))
    }

    /// Returns whether this directory is the one below the branches.
    pub(crate) fn has(&self, identity: Identity) -> bool {
        let ProjectInfo {
            device,
            inode,
            place,
            ..
        } = self.project;
        place != ProjectPlace::Nowhere && Identity { device, inode } == identity
    }
}

/// Finds the daemon that serves the mount on which a directory lies.
fn by_mount(directory: &Path) -> Option<Found> {
    if !platform::is_fuse(directory) {
        return None;
    }
    let st_dev = fs::metadata(directory).ok()?.dev();
    let mut sockets: Vec<PathBuf> = others().into_iter().map(|it| it.socket).collect();
    sockets.push(default_socket());
    sockets.iter().find_map(|socket| {
        let (mut client, daemon) = Daemon::connect(socket).ok()?;
        let mut after = 0;
        loop {
            let deadline = Deadline::after(PATIENCE);
            let page = client.call(MountList { after }, deadline).ok()?;
            let found = page.mounts.iter().find(|it| it.st_dev == st_dev);
            if let Some(mount) = found {
                return Some(Found::Mounted(daemon, mount.branch_name.clone()));
            }
            after = page.mounts.last()?.id;
        }
    })
}

/// Returns a text for the directory below the branches.
pub(crate) fn describe(project: &ProjectInfo) -> String {
    let ProjectInfo {
        lower,
        place,
        now_at,
        ..
    } = project;
    match place {
        ProjectPlace::Nowhere => "an empty tree".to_owned(),
        ProjectPlace::InPlace => lower.to_string(),
        ProjectPlace::Deleted => format!("{lower}, which was deleted"),
        ProjectPlace::Elsewhere if now_at.is_empty() => {
            format!("{lower}, which is not there any more")
        }
        ProjectPlace::Elsewhere => format!("{lower}, which is at {now_at} now"),
    }
}

/// Returns how `agentfs` is called from the current directory so that it reaches a daemon, as a shell reads
/// it.
pub(crate) fn address(socket: &Path, project: &ProjectInfo) -> String {
    let leads = |found: Result<Found, Failure>| match found {
        Ok(Found::Named(named)) => named == socket,
        Ok(Found::Over(daemon) | Found::Mounted(daemon, _)) => daemon.socket == socket,
        Ok(Found::Nothing(_)) | Err(_) => false,
    };
    let lower = project.lower.as_path();
    if leads(Common::default().find()) {
        "agentfs".to_owned()
    } else if project.place == ProjectPlace::InPlace && leads(search(lower)) {
        format!("agentfs --project {}", quoted(lower.as_os_str()))
    } else {
        format!("agentfs --socket {}", quoted(socket.as_os_str()))
    }
}
