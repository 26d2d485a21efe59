//! Where the oracle works: a private tmpfs, and what this machine's settings add to its rules.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::LazyLock;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{self, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{chroot, fchdir};

use super::kernel::Kernel;

/// A tmpfs that only this thread sees. The thread's root directory is somewhere in it from now on.
#[derive(Debug)]
pub struct Sandbox {
    top: OwnedFd,
    hardlinks_protected: bool,
    pub fine_ctime: bool,
}

impl Sandbox {
    /// Moves the calling thread into a mount namespace of its own. Needs root.
    pub fn enter() -> io::Result<Self> {
        let hardlinks_protected = is_protected("hardlinks");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        // Over an existing directory: no other program sees it.
        rustix::mount::mount("oracle", "/tmp", "tmpfs", flags, Some(c"mode=0755,size=4g"))?;
        let top = fs::open("/tmp", OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self {
            fine_ctime: has_fine_ctime(&top)?,
            top,
            hardlinks_protected,
        })
    }

    /// Makes an empty filesystem, in the directory `name` at the top.
    pub fn fresh(&self, name: &str) -> io::Result<Kernel> {
        self.leave()?;
        fs::mkdirat(&self.top, name, Mode::from_raw_mode(0o755))?;
        let root = fs::openat(&self.top, name, OFlags::DIRECTORY, Mode::empty())?;
        fchdir(&root)?;
        chroot(".")?;
        Ok(Kernel::new(self.fine_ctime, self.hardlinks_protected))
    }

    /// Removes everything at the top.
    pub fn clear(&self) -> io::Result<()> {
        self.leave()?;
        for entry in std::fs::read_dir("/")? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        Ok(())
    }

    /// Returns from a sequence's root directory to the top of the mount.
    pub fn leave(&self) -> io::Result<()> {
        fchdir(&self.top)?;
        chroot(".")?;
        Ok(())
    }
}

fn is_protected(what: &str) -> bool {
    let setting = std::fs::read(format!("/proc/sys/fs/protected_{what}"));
    setting.is_ok_and(|value| value.first().is_some_and(|digit| *digit != b'0'))
}

/// This variable is set in a user namespace, where root is the only user there is.
const ALONE: &str = "AGENTFS_ORACLE_ALONE";

/// Returns whether there are other users than root, and devices.
pub fn has_users() -> bool {
    std::env::var_os(ALONE).is_none()
}

/// Runs a test of this program again in a user namespace, as its root: only the real root may
/// enter a [`Sandbox`]. There the sequences have fewer kinds of steps, see [`has_users`].
pub fn run_again_as_root_of_a_namespace(test: &str) {
    let program = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(program)
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .status()
        .expect("unshare (util-linux) makes a user namespace");
    assert!(
        status.success(),
        "the run in a user namespace failed: {status}"
    );
}

/// Returns whether settings of this machine add rules for sticky directories.
pub fn guards_sticky_dirs() -> bool {
    static ANSWER: LazyLock<bool> = LazyLock::new(|| {
        ["symlinks", "regular", "fifos"]
            .into_iter()
            .any(is_protected)
    });
    *ANSWER
}

/// Tries whether changes that follow each other at once get different times.
fn has_fine_ctime(top: &OwnedFd) -> io::Result<bool> {
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        fs::fchmod(top, Mode::from_raw_mode(0o755))?;
        seen.insert(fs::fstat(top)?.st_ctime_nsec);
    }
    Ok(seen.len() == 20)
}
