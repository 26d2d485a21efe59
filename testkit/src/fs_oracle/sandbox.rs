//! Where the oracle works: a private tmpfs, and what this machine's settings add to its rules.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::fs::{self, Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{chroot, fchdir};
use rustix::thread::{self, UnshareFlags};

use crate::kernel::Kernel;

/// A tmpfs that only this thread sees. The thread's root directory is somewhere in it from now on.
#[derive(Debug)]
pub(crate) struct Sandbox {
    top: OwnedFd,
    hardlinks_protected: bool,
    pub(crate) fine_ctime: bool,
}

impl Sandbox {
    /// Moves the calling thread into a mount namespace of its own. Needs root.
    pub(crate) fn enter() -> io::Result<Self> {
        let hardlinks_protected = is_protected("hardlinks");
        #[expect(unsafe_code, reason = "unshare is unsafe because of CLONE_FILES")]
        // SAFETY: the flags do not contain UnshareFlags::FILES: descriptors stay shared.
        unsafe {
            thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)?;
        }
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        // Over an existing directory: nobody else sees it.
        rustix::mount::mount("oracle", "/tmp", "tmpfs", flags, Some(c"mode=0755,size=4g"))?;
        let top = fs::open("/tmp", OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self {
            fine_ctime: has_fine_ctime(&top)?,
            top,
            hardlinks_protected,
        })
    }

    /// An empty filesystem, in the directory `name` at the top.
    pub(crate) fn fresh(&self, name: &str) -> io::Result<Kernel> {
        self.leave()?;
        fs::mkdirat(&self.top, name, Mode::from_raw_mode(0o755))?;
        let root = fs::openat(&self.top, name, OFlags::DIRECTORY, Mode::empty())?;
        fchdir(&root)?;
        chroot(".")?;
        Ok(Kernel::new(self.fine_ctime, self.hardlinks_protected))
    }

    /// Removes everything at the top.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.leave()?;
        for entry in std::fs::read_dir("/")? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        Ok(())
    }

    /// Back from a sequence's root directory to the top of the mount.
    pub(crate) fn leave(&self) -> io::Result<()> {
        fchdir(&self.top)?;
        chroot(".")?;
        Ok(())
    }
}

fn is_protected(what: &str) -> bool {
    let setting = std::fs::read(format!("/proc/sys/fs/protected_{what}"));
    setting.is_ok_and(|value| value.first().is_some_and(|digit| *digit != b'0'))
}

/// Whether settings of this machine add rules for sticky directories.
pub(crate) fn guards_sticky_dirs() -> bool {
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
