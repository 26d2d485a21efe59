//! The caller of an operation, and its rights.

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
    /// Process id, or 0 when it is not known. It matters only to event sinks.
    pub pid: u32,
    /// How the request arrived. It matters only to event sinks.
    pub origin: Origin,
    /// Whether a kernel asks on the caller's behalf, as that of a mount does. The kernel has
    /// checked the rights already, so they are not checked again. It also waits for the answer with
    /// locks held, so the operation delivers no event: the mount calls
    /// [`Branch::deliver`](crate::Branch::deliver) once the answer is sent.
    pub behind_kernel: bool,
}

impl Caller {
    /// Returns the superuser within this process.
    #[must_use]
    pub fn root() -> Self {
        Self::new(0, 0)
    }

    /// Returns a user without supplementary groups, with umask 0 and [`Origin::Local`].
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

    /// Returns the same caller with another origin.
    #[must_use]
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Returns the same caller, asking through a kernel: see
    /// [`behind_kernel`](Self::behind_kernel).
    #[must_use]
    pub fn behind_kernel(self) -> Self {
        Self {
            behind_kernel: true,
            ..self
        }
    }

    /// Returns the same caller with another process id.
    #[must_use]
    pub fn with_pid(self, pid: u32) -> Self {
        Self { pid, ..self }
    }

    /// Returns the same caller with supplementary groups.
    #[must_use]
    pub fn with_groups(self, groups: impl Into<Arc<[u32]>>) -> Self {
        Self {
            groups: groups.into(),
            ..self
        }
    }

    /// Returns the same caller with another umask.
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
