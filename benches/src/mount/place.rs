//! The directories to work in.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::Failure;

/// What a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A copy of the lower directory in memory.
    Tmpfs,
    /// A copy of the lower directory beside it.
    Disk,
    /// The kernel's.
    Overlayfs,
    FuseOverlayfs,
    /// A branch that is kept in memory.
    Agentfs,
    /// A branch in a store beside the lower directory.
    AgentfsStore,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Tmpfs,
        Self::Disk,
        Self::Overlayfs,
        Self::FuseOverlayfs,
        Self::Agentfs,
        Self::AgentfsStore,
    ];

    /// Returns all of them.
    ///
    /// # Errors
    ///
    /// Fails when this machine lacks fuse-overlayfs.
    pub(super) fn available() -> Result<[Self; 6], Failure> {
        let has_peer = Command::new("fuse-overlayfs")
            .arg("--version")
            .output()
            .is_ok();
        if !has_peer {
            return Err("there is no fuse-overlayfs: run `apt-get install fuse-overlayfs`".into());
        }
        Ok(Self::ALL)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Disk => "disk",
            Self::Overlayfs => "overlayfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Agentfs => "AgentFS in memory",
            Self::AgentfsStore => "AgentFS on disk",
        }
    }
}

/// The lower directory on the disk, and a tmpfs for everything else.
#[derive(Debug)]
pub(super) struct Stage {
    lower: PathBuf,
    memory: PathBuf,
    /// Removed when the tmpfs is unmounted.
    dir: TempDir,
}

impl Stage {
    pub(super) fn new() -> Result<Self, Failure> {
        let dir = tempfile::tempdir()?;
        let (lower, memory) = (dir.path().join("lower"), dir.path().join("memory"));
        fs::create_dir(&lower)?;
        fs::create_dir(&memory)?;
        mount("tmpfs", &memory, "tmpfs", "mode=0755")?;
        Ok(Self { lower, memory, dir })
    }

    pub(super) fn lower(&self) -> &Path {
        &self.lower
    }

    /// Returns where the source tree lies as one file, in memory.
    pub(super) fn archive(&self) -> PathBuf {
        self.memory.join("sources.tar")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        unmount(&self.memory);
    }
}

/// A directory that shows what the lower one holds, and where changes do not reach it.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    kind: Kind,
    server: Option<Child>,
    /// What is removed with it.
    dir: PathBuf,
}

impl Place {
    pub(super) fn make(stage: &Stage, kind: Kind) -> Result<Self, Failure> {
        let dir = match kind {
            Kind::Disk | Kind::AgentfsStore => stage.dir.path().join("place"),
            Kind::Tmpfs | Kind::Overlayfs | Kind::FuseOverlayfs | Kind::Agentfs => {
                stage.memory.join("place")
            }
        };
        fs::create_dir(&dir)?;
        let [path, upper, work] = ["merged", "upper", "work"].map(|name| dir.join(name));
        for part in [&path, &upper, &work] {
            fs::create_dir(part)?;
        }
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            stage.lower.display(),
            upper.display(),
            work.display()
        );
        let mut place = Self {
            path,
            kind,
            server: None,
            dir,
        };
        let (lower, path) = (&stage.lower, &place.path);
        match kind {
            Kind::Tmpfs | Kind::Disk => {
                succeed(Command::new("cp").arg("-a").arg(lower.join(".")).arg(path))?;
            }
            Kind::Overlayfs => mount("overlay", path, "overlay", &layers)?,
            Kind::FuseOverlayfs => {
                succeed(
                    Command::new("fuse-overlayfs")
                        .args(["-o", &layers])
                        .arg(path),
                )?;
            }
            Kind::Agentfs => place.server = Some(serve(lower, path, None)?),
            Kind::AgentfsStore => place.server = Some(serve(lower, path, Some(&upper))?),
        }
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.kind {
            Kind::Overlayfs | Kind::FuseOverlayfs => unmount(&self.path),
            Kind::Tmpfs | Kind::Disk | Kind::Agentfs | Kind::AgentfsStore => {}
        }
        if let Some(mut server) = self.server.take() {
            drop(server.stdin.take());
            // Nothing depends on how it ends.
            drop(server.wait());
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn serve(lower: &Path, point: &Path, store: Option<&Path>) -> Result<Child, Failure> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("mount-server")
        .args([lower, point])
        .args(store)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = String::new();
    if let Some(output) = server.stdout.take() {
        BufReader::new(output).read_line(&mut said)?;
    }
    if said == "ready\n" {
        Ok(server)
    } else {
        server.wait()?;
        Err("AgentFS cannot be mounted here".into())
    }
}

/// Runs a command to its end.
pub(super) fn succeed(command: &mut Command) -> Result<(), Failure> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} ended with {}: {text}", output.status).into())
}

fn mount(source: &str, point: &Path, kind: &str, data: &str) -> Result<(), Failure> {
    let point_bytes = CString::new(point.as_os_str().as_bytes())?;
    let data = CString::new(data)?;
    rustix::mount::mount(
        source,
        &point_bytes,
        kind,
        MountFlags::empty(),
        Some(data.as_c_str()),
    )
    .map_err(|error| format!("{kind} on {}: {error}", point.display()).into())
}

fn unmount(point: &Path) {
    // Not there any more: then there is nothing to do.
    let _gone = rustix::mount::unmount(point, UnmountFlags::DETACH);
}
