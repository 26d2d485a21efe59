//! The filesystems in which changes are made: a branch of a daemon in this process, or a directory of
//! a tmpfs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentfs_client::{Client, Deadline};
use agentfs_core::{Branch, Caller, FsCore, OpenFlags};
use agentfs_daemon::{Config, Daemon, EchoMode};
use agentfs_engine::Counts;
use agentfs_proto::message::{Hello, Mount, Unmount};
use tempfile::TempDir;

use crate::Failure;

/// Returns how long the daemon may take to answer.
fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// How the branch of a daemon is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mounting {
    /// It is not.
    None,
    /// As usual.
    Usual,
    /// With `--echo never`: programs without the library hear nothing of changes from outside.
    WithoutEcho,
}

/// A daemon in this process. Changes are made by calls of its filesystem, so that no request stands
/// between two of them.
#[derive(Debug)]
pub(crate) struct AgentFs {
    daemon: Daemon,
    branch: Branch,
    caller: Caller,
    mount: Option<(Client, TempDir)>,
    _directory: TempDir,
}

/// A directory on a tmpfs, which the kernel alone watches.
#[derive(Debug)]
pub(crate) struct Tmpfs(TempDir);

/// Makes a directory that only its owner may enter, as the control socket's has to be.
pub(crate) fn private_directory() -> Result<TempDir, Failure> {
    let private = std::fs::Permissions::from_mode(0o700);
    Ok(tempfile::Builder::new()
        .prefix("agentfs-bench-")
        .permissions(private)
        .tempdir()?)
}

impl AgentFs {
    /// Starts a daemon, and mounts its first branch if it is to be mounted.
    fn start(mounting: Mounting) -> Result<Self, Failure> {
        let directory = private_directory()?;
        let mut config = Config::new(directory.path().join("control.sock"));
        config.limits.watches = 4 << 20;
        if mounting == Mounting::WithoutEcho {
            config.echo = EchoMode::Never;
        }
        let daemon = Daemon::start(config)?;
        let branch = daemon.core().branch(FsCore::MAIN)?;
        let mount = if mounting == Mounting::None {
            None
        } else {
            let point = private_directory()?;
            let (mut client, _) =
                Client::connect(daemon.socket(), Hello::new("agentfs-bench"), soon())?;
            let request = Mount {
                branch: String::new(),
                path: point.path().into(),
            };
            client.call(request, soon())?;
            Some((client, point))
        };
        Ok(Self {
            daemon,
            branch,
            caller: Caller::root(),
            mount,
            _directory: directory,
        })
    }

    pub(crate) fn socket(&self) -> &Path {
        self.daemon.socket()
    }

    /// Returns what has happened to records so far.
    pub(crate) fn counts(&self) -> Counts {
        self.daemon.watches().counts()
    }

    fn point(&self) -> Option<&Path> {
        self.mount.as_ref().map(|(_, point)| point.path())
    }
}

impl Drop for AgentFs {
    fn drop(&mut self) {
        if let Some((client, point)) = &mut self.mount {
            let request = Unmount {
                path: point.path().into(),
                detach: true,
            };
            // The daemon takes its mounts away with it in any case.
            drop(client.call(request, soon()));
        }
    }
}

/// Either filesystem.
#[derive(Debug)]
pub(crate) enum Backend {
    AgentFs(Box<AgentFs>),
    Tmpfs(Tmpfs),
}

impl Backend {
    pub(crate) fn agentfs(mounting: Mounting) -> Result<Self, Failure> {
        Ok(Self::AgentFs(Box::new(AgentFs::start(mounting)?)))
    }

    pub(crate) fn tmpfs() -> Result<Self, Failure> {
        let memory = tempfile::Builder::new()
            .prefix("agentfs-bench-")
            .tempdir_in("/dev/shm")?;
        Ok(Self::Tmpfs(Tmpfs(memory)))
    }

    /// Returns the path by which programs know `below`.
    pub(crate) fn seen_as(&self, below: &str) -> PathBuf {
        match self {
            Self::AgentFs(it) => it
                .point()
                .map_or_else(|| PathBuf::from("/"), Path::to_owned)
                .join(below),
            Self::Tmpfs(it) => it.0.path().join(below),
        }
    }

    pub(crate) fn make_directory(&self, below: &str) -> Result<(), Failure> {
        match self {
            Self::AgentFs(it) => {
                it.branch.mkdir(&it.caller, format!("/{below}"), 0o755)?;
            }
            Self::Tmpfs(it) => std::fs::create_dir(it.0.path().join(below))?,
        }
        Ok(())
    }

    pub(crate) fn make_file(&self, below: &str) -> Result<(), Failure> {
        match self {
            Self::AgentFs(it) => {
                let flags = OpenFlags::CREATE | OpenFlags::READ_WRITE;
                let handle = it
                    .branch
                    .open(&it.caller, format!("/{below}"), flags, 0o644)?;
                it.branch.close(&it.caller, handle)?;
            }
            Self::Tmpfs(it) => drop(std::fs::File::create(it.0.path().join(below))?),
        }
        Ok(())
    }

    /// Removes a directory with everything in it.
    pub(crate) fn remove_directory(&self, below: &str) -> Result<(), Failure> {
        match self {
            Self::AgentFs(it) => {
                let directory = PathBuf::from(format!("/{below}"));
                for entry in it.branch.list(&it.caller, &directory)? {
                    let name = String::from_utf8_lossy(&entry.name).into_owned();
                    if name != "." && name != ".." {
                        it.branch.unlink(&it.caller, directory.join(name))?;
                    }
                }
                it.branch.rmdir(&it.caller, &directory)?;
            }
            Self::Tmpfs(it) => std::fs::remove_dir_all(it.0.path().join(below))?,
        }
        Ok(())
    }

    /// Returns what changes the files of a directory, one by one.
    pub(crate) fn changer(&self, directory: &str, files: u32) -> Changer<'_> {
        let path = |name: &str| match self {
            Self::AgentFs(_) => PathBuf::from(format!("/{directory}/{name}")),
            Self::Tmpfs(it) => it.0.path().join(directory).join(name),
        };
        Changer {
            backend: self,
            paths: (0..files).map(|it| path(&format!("f{it}"))).collect(),
            end: path("end"),
        }
    }

    /// Reads a file, so that the kernel remembers it and a change from outside has to make it forget.
    pub(crate) fn read_back(&self, below: &str) -> Result<(), Failure> {
        match self {
            Self::AgentFs(it) if it.mount.is_none() => Ok(()),
            Self::AgentFs(_) | Self::Tmpfs(_) => {
                std::fs::read(self.seen_as(below))?;
                Ok(())
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        match self {
            Self::AgentFs(it) => it.counts(),
            Self::Tmpfs(_) => Counts::default(),
        }
    }

    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::AgentFs(it) => Some(it.socket()),
            Self::Tmpfs(_) => None,
        }
    }
}

/// Changes files: each change is one truncate(2) by path, to a size that is another one every time.
#[derive(Debug)]
pub(crate) struct Changer<'a> {
    backend: &'a Backend,
    paths: Vec<PathBuf>,
    end: PathBuf,
}

impl Changer<'_> {
    /// Makes the change number `change`; files take turns.
    pub(crate) fn change(&self, change: u32) -> Result<(), Failure> {
        let count = u32::try_from(self.paths.len())?;
        let path = usize::try_from(change % count)?;
        self.truncate(&self.paths[path], u64::from(change / count % 2) + 1)
    }

    /// Makes the change after the last one.
    pub(crate) fn end(&self) -> Result<(), Failure> {
        self.truncate(&self.end, 1)
    }

    fn truncate(&self, path: &Path, size: u64) -> Result<(), Failure> {
        match self.backend {
            Backend::AgentFs(it) => it.branch.truncate(&it.caller, path, size)?,
            Backend::Tmpfs(_) => nix::unistd::truncate(path, i64::try_from(size)?)?,
        }
        Ok(())
    }
}
