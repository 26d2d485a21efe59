//! Who asks, and with which rights.

use std::sync::Arc;

use crate::model::event::Origin;

/// The process on whose behalf an operation is done.
#[derive(Clone, Debug)]
pub struct Caller {
    /// File system user id. 0 has all rights.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// Taken away from the mode of what is created. 0 when the kernel has applied it already, as
    /// FUSE does by default.
    pub umask: u32,
    /// Process id, or 0 when it is not known. Only told to event sinks.
    pub pid: u32,
    /// By which way it came. Only told to event sinks.
    pub origin: Origin,
    /// Whether a kernel asks on its behalf, as a mount's does. It has checked the rights already, so
    /// they are not checked again; and it waits for the answer with locks held, so the operation
    /// does not tell event sinks: [`Branch::deliver`](crate::Branch::deliver) does, once the answer
    /// is given.
    pub behind_kernel: bool,
}

impl Caller {
    /// The superuser within this process.
    #[must_use]
    pub fn root() -> Self {
        Self::new(0, 0)
    }

    /// A user without supplementary groups, with umask 0, as [`Origin::Local`].
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Self {
        Self {
            uid,
            gid,
            groups: Arc::from([]),
            umask: 0,
            pid: 0,
            origin: Origin::Local,
            behind_kernel: false,
        }
    }

    /// The same caller with another origin.
    #[must_use]
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// The same caller, asking through a kernel: see [`behind_kernel`](Self::behind_kernel).
    #[must_use]
    pub fn behind_kernel(self) -> Self {
        Self {
            behind_kernel: true,
            ..self
        }
    }

    /// The same caller with another process id.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid, ..self }
    }

    /// The same caller with supplementary groups.
    #[must_use]
    pub fn with_groups(self, groups: impl Into<Arc<[u32]>>) -> Self {
        Self {
            groups: groups.into(),
            ..self
        }
    }

    /// The same caller with another umask.
    #[must_use]
    pub fn with_umask(self, umask: u32) -> Self {
        Self { umask, ..self }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}
