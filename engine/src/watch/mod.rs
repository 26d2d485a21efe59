//! Watches, and the indexes that find those that must hear a change.
//!
//! A kqueue or inotify watch sits on a node ([`NodeIndex`]), an FSEvents or native watch on a path
//! and everything below it ([`TreeIndex`]).

mod node_index;
mod tree_index;

use std::sync::Arc;

use agentfs_core::event::{Envelope, Origin};
use agentfs_core::id::{MountId, Seq};

pub(crate) use self::node_index::{NodeIndex, NodeWatch};
pub(crate) use self::tree_index::{TreeIndex, TreeWatch, path_hash};
use crate::queue::{Queue, Slot};

/// Which changes a watch leaves out, whatever its interest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WatchFilter {
    /// The changes up to this one were committed before the watch was registered.
    pub(crate) after: Seq,
    /// The mount on which the watch was made, where the kernel itself notifies of what is done
    /// there.
    pub(crate) mount: Option<MountId>,
}

impl WatchFilter {
    /// Returns whether the change is older than the watch.
    #[inline]
    pub(crate) fn is_older(&self, envelope: &Envelope) -> bool {
        envelope.seq <= self.after
    }

    /// Returns how the program hears a change in this round.
    #[inline]
    pub(crate) fn delivery(&self, envelope: &Envelope, round: Round<'_>) -> Delivery {
        let is_here = |mount| self.mount == Some(mount);
        match (round, self.mount) {
            (Round::First(kernel_mounts), Some(mount)) if kernel_mounts.contains(&mount) => {
                if envelope.origin == Origin::Mount(mount) {
                    Delivery::ByKernel
                } else {
                    Delivery::InAnotherRound
                }
            }
            (Round::First(_), _) => Delivery::ByRecord,
            (Round::Echoed(mount), _) if is_here(mount) => Delivery::ByKernel,
            (Round::NotEchoed(mount), _) if is_here(mount) => Delivery::ByRecord,
            (Round::Echoed(_) | Round::NotEchoed(_), _) => Delivery::InAnotherRound,
        }
    }
}

/// Which watches a change is delivered to. A change has one first round, and one more for each mount
/// on which the echo was to have the kernel notify of it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Round<'a> {
    /// All watches but those made on these mounts, where the kernel notifies: it has done so on the
    /// mount through which the change was made, and the echo follows on the others.
    First(&'a [MountId]),
    /// The watches made on this mount, where the echo has had the kernel notify.
    Echoed(MountId),
    /// The watches made on this mount, where the echo could not have the kernel notify.
    NotEchoed(MountId),
}

/// How a program hears a change in one [`Round`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// By a record in its ring.
    ByRecord,
    /// By the kernel; only the end of a watch is passed on.
    ByKernel,
    /// Not now: it has heard the change, or will.
    InAnotherRound,
}

/// Names a watch: its queue, and where the queue keeps its state.
#[derive(Clone, Debug)]
pub(crate) struct WatchHandle {
    pub(crate) queue: Arc<Queue>,
    pub(crate) slot: Slot,
}

impl WatchHandle {
    pub(crate) fn is(&self, queue: &Arc<Queue>, slot: Slot) -> bool {
        self.slot == slot && Arc::ptr_eq(&self.queue, queue)
    }
}
