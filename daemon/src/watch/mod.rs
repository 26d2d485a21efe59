//! Watches, and the indexes that find those which must hear a change.
//!
//! A kqueue or inotify watch sits on a node ([`NodeIndex`]), an FSEvents or native watch on a path
//! and everything below it ([`TreeIndex`]).

mod hash;
mod node_index;
mod tree_index;

use std::sync::Arc;

use agentfs_core::event::{Envelope, Origin};
use agentfs_core::id::{MountId, Seq};

pub(crate) use self::node_index::{NodeIndex, NodeWatch};
pub(crate) use self::tree_index::{TreeIndex, TreeWatch, path_hash};
use crate::queue::{Queue, Slot};

/// Whose notifications a queue speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Api {
    /// `EVFILT_VNODE` knotes as XNU posts them.
    KqueueXnu,
    /// `EVFILT_VNODE` knotes as FreeBSD posts them.
    KqueueFreeBsd,
    /// inotify.
    Inotify,
    /// FSEvents.
    FsEvents,
    /// Records without an API to imitate.
    Native,
}

/// Which changes a watch leaves out, whatever it is interested in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Since {
    /// Changes up to here were committed before the watch was registered.
    pub(crate) after: Seq,
    /// The mount on which the watch was made: the kernel announces there what is done there.
    pub(crate) mount: Option<MountId>,
}

impl Since {
    /// Whether the change is older than the watch.
    #[inline]
    pub(crate) fn is_too_old(&self, envelope: &Envelope) -> bool {
        envelope.seq <= self.after
    }

    /// How the watcher hears a change.
    #[inline]
    pub(crate) fn hears(&self, envelope: &Envelope, telling: Telling<'_>) -> Hears {
        let is_here = |mount| self.mount == Some(mount);
        match (telling, self.mount) {
            (Telling::First(by_kernel), Some(mount)) if by_kernel.contains(&mount) => {
                if envelope.origin == Origin::Mount(mount) {
                    Hears::ByKernel
                } else {
                    Hears::Otherwise
                }
            }
            (Telling::First(_), _) => Hears::ByRecord,
            (Telling::Echoed(mount), _) if is_here(mount) => Hears::ByKernel,
            (Telling::NotEchoed(mount), _) if is_here(mount) => Hears::ByRecord,
            (Telling::Echoed(_) | Telling::NotEchoed(_), _) => Hears::Otherwise,
        }
    }
}

/// How a change is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Telling<'a> {
    /// For the first time. On these mounts the kernel tells it: it has done so on the one through which
    /// the change was made, and is about to be made to do so on the others.
    First(&'a [MountId]),
    /// Once more on this mount, where the kernel has been made to tell it.
    Echoed(MountId),
    /// Once more on this mount, where the kernel could not be made to tell it.
    NotEchoed(MountId),
}

/// How a watcher hears a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hears {
    ByRecord,
    ByKernel,
    /// Not this time: it has heard the change, or will.
    Otherwise,
}

/// Where the state of a watch is.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) queue: Arc<Queue>,
    pub(crate) slot: Slot,
}

impl Home {
    pub(crate) fn is(&self, queue: &Arc<Queue>, slot: Slot) -> bool {
        self.slot == slot && Arc::ptr_eq(&self.queue, queue)
    }
}
