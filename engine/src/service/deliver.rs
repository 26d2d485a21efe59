//! From a change that FsCore emits to the doorbells of the queues that hear it.

use std::sync::Arc;

use agentfs_core::event::{Envelope, EventKind, EventSink, Origin};
use agentfs_core::id::{BranchId, MountId};

use super::WatchService;
use crate::queue::{Open, Queue};
use crate::record_writer::RoutedChange;
use crate::route::Notification;
use crate::watch::Round;

impl EventSink for WatchService {
    /// Does nothing: [`on_envelope`](Self::on_envelope) has all of it.
    fn on_event(&self, _event: &EventKind) {}

    fn on_envelope(&self, envelope: &Envelope) {
        self.deliver(envelope);
        // A restore and the host open no file of the branch, so FsCore emits no close for them.
        // Many programs wait for IN_CLOSE_WRITE alone, so one is added.
        if matches!(envelope.origin, Origin::Restore | Origin::Lower)
            && let Some(change) = envelope.change.content_close()
        {
            self.deliver(&Envelope {
                change,
                ..envelope.clone()
            });
        }
    }

    fn wants_activity(&self) -> bool {
        self.router.wants_activity(None)
    }

    fn wants_activity_in(&self, branch: BranchId) -> bool {
        self.router.wants_activity(Some(branch)) || (self.kernel_mounts.wants_activity)(branch)
    }
}

impl WatchService {
    /// Delivers a change to every queue that watches what it touches, for the first time.
    fn deliver(&self, envelope: &Envelope) {
        self.kept.note(envelope);
        let kernel_mounts = (self.kernel_mounts.mounts)(envelope);
        self.deliver_round(envelope, Round::First(&kernel_mounts));
    }

    /// Delivers a change to the queues that watch on a mount for which
    /// [`notified_by_kernel`](Self::notified_by_kernel) announced an echo, after the echo was tried. If
    /// it failed, these queues get records.
    pub fn deliver_after_echo(&self, envelope: &Envelope, mount: MountId, is_echoed: bool) {
        let round = if is_echoed {
            Round::Echoed(mount)
        } else {
            Round::NotEchoed(mount)
        };
        self.deliver_round(envelope, round);
    }

    /// Delivers a change to the queues of one round, one queue after the other.
    fn deliver_round(&self, envelope: &Envelope, round: Round<'_>) {
        let notifications = self.router.notifications(envelope, round);
        if notifications.is_empty() {
            return;
        }
        self.before_delivery.0(envelope);
        let change = self.router.routed(envelope, 0);
        for (queue, notifications) in notifications.by_queue() {
            let mut guard = queue.lock();
            let Some(open) = guard.as_mut() else { continue };
            self.enqueue(queue, open, notifications, change);
            open.channel.publish();
            self.note_if_broken(queue, open);
        }
    }

    /// Enqueues what one queue hears of a change, and ends the watches that the change ends.
    pub(super) fn enqueue(
        &self,
        queue: &Arc<Queue>,
        open: &mut Open,
        notifications: &[Notification],
        change: RoutedChange<'_>,
    ) {
        for Notification { handle, event, .. } in notifications {
            let is_over = open.enqueue(handle.slot, event, change);
            if is_over {
                self.remove(queue, open, handle.slot);
            }
        }
    }
}
