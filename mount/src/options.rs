//! How a branch is mounted.

use fuser::{Config, MountOption, SessionACL};
use rustix::mount::MountFlags;

/// How a branch is mounted. The default is right for most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountOptions {
    /// Threads that answer requests; at least 2.
    pub threads: usize,
    /// Whether other users may enter. Otherwise only the owner may, not even root. `None`: when
    /// root mounts.
    pub others: Option<bool>,
    /// Whether setuid and setgid bits are honoured.
    pub set_ids: bool,
    /// Whether device nodes can be opened.
    pub devices: bool,
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// Whether the mount is taken away when this process dies without doing so.
    pub guarded: bool,
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
        }
    }
}

impl MountOptions {
    pub(crate) fn config(&self) -> Config {
        let is_root = rustix::process::geteuid().is_root();
        let mut options = vec![
            MountOption::FSName("agentfs".to_owned()),
            // Both mount(2) and fusermount3 take it in this form, and fuser passes its own word
            // for it only to the latter.
            MountOption::CUSTOM("subtype=agentfs".to_owned()),
            MountOption::DefaultPermissions,
        ];
        if self.set_ids {
            options.push(MountOption::Suid);
        }
        if self.devices {
            options.push(MountOption::Dev);
        }
        if self.read_only {
            options.push(MountOption::RO);
        }
        let mut config = Config::default();
        config.mount_options = options;
        config.acl = if self.others.unwrap_or(is_root) {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        // While one thread waits to invalidate, another has to answer what it waits for.
        config.n_threads = Some(self.threads.max(2));
        config
    }

    /// The same for mount(2).
    pub(crate) fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::empty();
        flags.set(MountFlags::NOSUID, !self.set_ids);
        flags.set(MountFlags::NODEV, !self.devices);
        flags.set(MountFlags::RDONLY, self.read_only);
        flags
    }
}
