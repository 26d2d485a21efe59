//! A daemon in this process with a branch on a mount, and changes made from outside.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentfs_client::{CallError, Client, Deadline};
use agentfs_core::FsCore;
use agentfs_daemon::{Config, Daemon, EchoMode};
use agentfs_mount::{MountHandle, MountOptions, Mounts};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{
    FsChmod, FsClose, FsLink, FsMkdir, FsOp, FsOpen, FsRename, FsReply, FsRequest, FsRmdir,
    FsSymlink, FsTruncate, FsUnlink, FsWrite, Hello, Status, open_flags,
};
use agentfs_testkit::environment::can_mount;
use tempfile::TempDir;

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

/// The daemon, its mount, and a session.
pub(crate) struct Mounted {
    client: Client,
    mount: MountHandle,
    _mounts: Mounts,
    point: TempDir,
    daemon: Daemon,
    _directory: TempDir,
}

impl Mounted {
    /// Starts a daemon with a mount; returns `None` when mounting is left out.
    pub(crate) fn new() -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let private = std::fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new()
            .permissions(private)
            .tempdir()
            .unwrap();
        let mut config = Config::new(directory.path().join("control.sock"));
        // There is no echo: the mount is not one of the daemon's own, and the tests count the
        // descriptors of this process.
        config.echo = EchoMode::Never;
        let daemon = Daemon::start(config).unwrap();
        let mounts = Mounts::new(daemon.core()).unwrap();
        let point = TempDir::new().unwrap();
        let mount = mounts
            .mount(FsCore::MAIN, point.path(), &MountOptions::default())
            .unwrap();
        let info = mounts.list().pop().unwrap();
        daemon
            .mounts()
            .insert(info.id, info.branch, info.device, point.path());
        let (client, _) = Client::connect(daemon.socket(), Hello::new("test"), deadline()).unwrap();
        Some(Self {
            client,
            mount,
            _mounts: mounts,
            point,
            daemon,
            _directory: directory,
        })
    }

    pub(crate) fn point(&self) -> &Path {
        self.point.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.daemon.socket().to_owned()
    }

    fn ask(&mut self, op: FsOp) -> FsReply {
        self.try_ask(op).expect("the operation is possible")
    }

    /// Sends an operation; returns `None` when the daemon refuses it.
    fn try_ask(&mut self, op: FsOp) -> Option<FsReply> {
        let request = FsRequest {
            branch: String::new(),
            op,
        };
        let answer = self.client.call(request, deadline());
        if let Err(CallError::Refused(_)) = answer {
            return None;
        }
        Some(answer.unwrap())
    }

    /// Makes a change from outside.
    pub(crate) fn apply(&mut self, change: &Change) {
        assert!(self.try_apply("", change), "{change:?}");
    }

    /// Makes a change below `root`, which is empty or ends with a slash, from outside. Returns
    /// whether it could be made.
    pub(crate) fn try_apply(&mut self, root: &str, change: &Change) -> bool {
        let path = |it: &str| format!("/{root}{it}").as_str().into();
        let op = match change {
            Change::Write(name) => return self.try_write(path(name)),
            Change::Mkdir(name) => FsOp::Mkdir(FsMkdir {
                path: path(name),
                mode: 0o755,
            }),
            Change::Rmdir(name) => FsOp::Rmdir(FsRmdir { path: path(name) }),
            Change::Unlink(name) => FsOp::Unlink(FsUnlink { path: path(name) }),
            Change::Rename(from, to) => FsOp::Rename(FsRename {
                from: path(from),
                to: path(to),
                flags: 0,
            }),
            Change::Link(from, to) => FsOp::Link(FsLink {
                from: path(from),
                to: path(to),
            }),
            Change::Symlink(name) => FsOp::Symlink(FsSymlink {
                path: path(name),
                target: "target".into(),
            }),
            Change::Chmod(name) => FsOp::Chmod(FsChmod {
                path: path(name),
                mode: 0o600,
            }),
            Change::Truncate(name) => FsOp::Truncate(FsTruncate {
                path: path(name),
                size: 2,
            }),
        };
        self.try_ask(op).is_some()
    }

    fn try_write(&mut self, path: Bytes) -> bool {
        let open = FsOpen {
            path,
            flags: open_flags::WRITE | open_flags::CREATE | open_flags::TRUNCATE,
            mode: 0o644,
        };
        let Some(FsReply::Opened(opened)) = self.try_ask(FsOp::Open(open)) else {
            return false;
        };
        let handle = opened.handle;
        let write = FsWrite {
            handle,
            offset: 0,
            data: "text".into(),
        };
        self.ask(FsOp::Write(write));
        self.ask(FsOp::Close(FsClose { handle }));
        true
    }

    /// Writes into an existing file from outside, without making the file empty first.
    pub(crate) fn write_at(&mut self, name: &str, offset: u64, data: &str) {
        let open = FsOpen {
            path: format!("/{name}").as_str().into(),
            flags: open_flags::WRITE,
            mode: 0,
        };
        let FsReply::Opened(opened) = self.ask(FsOp::Open(open)) else {
            panic!("opened");
        };
        let handle = opened.handle;
        let write = FsWrite {
            handle,
            offset,
            data: data.into(),
        };
        self.ask(FsOp::Write(write));
        self.ask(FsOp::Close(FsClose { handle }));
    }

    /// Makes an empty file from outside.
    pub(crate) fn make(&mut self, name: &str) {
        let open = FsOpen {
            path: format!("/{name}").as_str().into(),
            flags: open_flags::WRITE | open_flags::CREATE,
            mode: 0o644,
        };
        let FsReply::Opened(opened) = self.ask(FsOp::Open(open)) else {
            panic!("opened");
        };
        let handle = opened.handle;
        self.ask(FsOp::Close(FsClose { handle }));
    }

    /// Sets the size of a file from outside.
    pub(crate) fn set_len(&mut self, name: &str, size: u64) {
        let path = format!("/{name}").as_str().into();
        self.ask(FsOp::Truncate(FsTruncate { path, size }));
    }

    /// Returns the reserved idents of the queues of every other session.
    pub(crate) fn reserved_idents(&mut self) -> Vec<u64> {
        let report = self.client.call(Status { after: 0 }, deadline()).unwrap();
        let queues = report.sessions.iter().flat_map(|it| &it.queues);
        queues.map(|it| it.doorbell_ident).collect()
    }

    pub(crate) fn end(self) {
        self.mount.unmount(true).unwrap();
    }
}

/// A change that the kernel can make as well as the daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// Opens the file (and makes or empties it), writes, and closes it.
    Write(&'static str),
    Mkdir(&'static str),
    Rmdir(&'static str),
    Unlink(&'static str),
    Rename(&'static str, &'static str),
    Link(&'static str, &'static str),
    Symlink(&'static str),
    Chmod(&'static str),
    Truncate(&'static str),
}

impl Change {
    /// Makes the change as any program does.
    pub(crate) fn apply_below(&self, root: &Path) {
        self.try_below(root).unwrap();
    }

    /// Makes the change if it can be made.
    pub(crate) fn try_below(&self, root: &Path) -> std::io::Result<()> {
        match self {
            Self::Write(name) => std::fs::write(root.join(name), "text"),
            Self::Mkdir(name) => std::fs::create_dir(root.join(name)),
            Self::Rmdir(name) => std::fs::remove_dir(root.join(name)),
            Self::Unlink(name) => std::fs::remove_file(root.join(name)),
            Self::Rename(from, to) => std::fs::rename(root.join(from), root.join(to)),
            Self::Link(from, to) => std::fs::hard_link(root.join(from), root.join(to)),
            Self::Symlink(name) => std::os::unix::fs::symlink("target", root.join(name)),
            Self::Chmod(name) => {
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(root.join(name), mode)
            }
            Self::Truncate(name) => Ok(nix::unistd::truncate(&root.join(name), 2)?),
        }
    }
}
