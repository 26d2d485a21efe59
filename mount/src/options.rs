//! How a branch is mounted.

use fuser::{Config, SessionACL};
use rustix::mount::MountFlags;

use crate::keeper::KeeperOptions;

/// How a branch is mounted. The default is right for most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// Threads that answer requests; at least 2.
    pub threads: usize,
    /// Whether other users may enter. Otherwise only the owner may, not even root. `None` means that
    /// they may when root mounts.
    pub others: Option<bool>,
    /// Whether setuid and setgid bits are honoured.
    pub set_ids: bool,
    /// Whether device nodes can be opened.
    pub devices: bool,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// Whether programs that wait for this process get an error when it dies, whatever it holds. The
    /// mount then answers `ENOTCONN` until it is taken away.
    pub guarded: bool,
    /// How the mount is kept when this process dies, so that another one can take it over: programs wait
    /// for that one. `None` if it is not kept. Needs Linux 6.9; before, the mount is guarded instead.
    pub keeper: Option<KeeperOptions>,
}

impl Default for MountOptions {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            threads: (processors + 2).min(16),
            others: None,
            set_ids: false,
            devices: false,
            read_only: false,
            guarded: true,
            keeper: None,
        }
    }
}

impl MountOptions {
    /// Returns the options of a session whose mount is already made.
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::default();
        config.acl = if self.lets_others_in() {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        config.n_threads = Some(self.threads());
        config
    }

    pub(crate) fn threads(&self) -> usize {
        // While one thread waits to invalidate, another has to answer what it waits for.
        self.threads.max(2)
    }

    pub(crate) fn lets_others_in(&self) -> bool {
        let is_root = rustix::process::geteuid().is_root();
        self.others.unwrap_or(is_root)
    }

    /// Returns the options for fusermount3, which adds `nosuid` and `nodev` itself.
    pub(crate) fn for_helper(&self) -> String {
        let mut options = "fsname=agentfs,subtype=agentfs,default_permissions".to_owned();
        let more = [
            (self.set_ids, ",suid"),
            (self.devices, ",dev"),
            (self.read_only, ",ro"),
            (self.lets_others_in(), ",allow_other"),
        ];
        for (_, option) in more.iter().filter(|(is_set, _)| *is_set) {
            options.push_str(option);
        }
        options
    }

    /// Returns the flags for mount(2).
    pub(crate) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::NOSUID, !self.set_ids);
        flags.set(MountFlags::NODEV, !self.devices);
        flags.set(MountFlags::RDONLY, self.read_only);
        flags
    }
}
