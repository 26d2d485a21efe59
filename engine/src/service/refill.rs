//! Refills the ring of a reader that has made room: first with records that wait, then with the
//! difference.

use std::sync::Arc;

use agentfs_core::event::{Envelope, Origin};
use agentfs_core::id::NodeId;
use agentfs_proto::record::flags::HEALED;

use super::WatchService;
use crate::api::Api;
use crate::heal::{Base, Gap};
use crate::queue::{Open, Queue, Slot, Target};
use crate::synth::inotify::IN_DELETE_SELF;
use crate::watch::Round;

/// How a turn at a queue ended.
enum Turn {
    /// Nothing waits any more, or the ring has no room.
    Over,
    /// More waits, but committers may want the queue.
    Pause,
    /// The difference has to be worked out, without holding the queue.
    Gap(Box<Gap>),
}

/// A difference that a queue waits for.
#[derive(Debug)]
pub struct Difference(Box<Gap>);

/// How many changes are delivered in one turn.
const CHANGES: usize = 256;

impl WatchService {
    /// Moves what waits into the queue's ring, as far as there is room. The caller does so when the
    /// program rings the refill doorbell.
    pub fn refill(&self, queue: &Arc<Queue>) {
        loop {
            match self.turn(queue) {
                Turn::Over => return,
                Turn::Pause => {}
                Turn::Gap(gap) => self.find_changes(queue, &gap),
            }
        }
    }

    /// Refills as [`refill`](Self::refill) does, but does not work out a difference, which takes time
    /// in proportion to what changed. If one is needed, the caller has another thread
    /// [work it out](Self::work_out).
    #[must_use]
    pub fn refill_at_once(&self, queue: &Arc<Queue>) -> Option<Difference> {
        loop {
            match self.turn(queue) {
                Turn::Over => return None,
                Turn::Pause => {}
                Turn::Gap(gap) => return Some(Difference(gap)),
            }
        }
    }

    /// Works out a difference, and goes on with refilling the queue.
    pub fn work_out(&self, queue: &Arc<Queue>, difference: &Difference) {
        self.find_changes(queue, &difference.0);
        self.refill(queue);
    }

    fn turn(&self, queue: &Arc<Queue>) -> Turn {
        let mut guard = queue.lock();
        let Some(open) = guard.as_mut() else {
            return Turn::Over;
        };
        let turn = self.take_turn(queue, open);
        open.channel.publish();
        self.note_if_broken(queue, open);
        turn
    }

    fn take_turn(&self, queue: &Arc<Queue>, open: &mut Open) -> Turn {
        for _ in 0..CHANGES {
            if open.channel.is_awaiting() || !open.channel.drain_replay() {
                return Turn::Over;
            }
            if self.replay_next(queue, open) || open.channel.end_replay() {
                continue;
            }
            if !open.channel.drain_spill() {
                return Turn::Over;
            }
            if let Some(missed) = open.channel.backlog.held.take() {
                self.release(queue, open, missed);
                continue;
            }
            return match open.channel.backlog.heal.take() {
                Some(base) => self.open_gap(queue, open, base),
                None => Turn::Over,
            };
        }
        Turn::Pause
    }

    /// Begins a difference. Changes committed from here on become records again, behind the
    /// difference.
    fn open_gap(&self, queue: &Queue, open: &mut Open, base: Base) -> Turn {
        let Ok(branch) = self.core.branch(queue.branch) else {
            // Nothing more happens in a branch that is deleted.
            return Turn::Over;
        };
        let gap = base.gap(&branch);
        let replay = gap.replay(queue.branch, Arc::clone(&self.pool));
        open.channel.counters.healed += 1;
        open.channel.backlog.healed_through = replay.seq();
        open.channel.backlog.replay = Some(replay);
        Turn::Gap(Box::new(gap))
    }

    /// Works out the difference, without holding up commits meanwhile.
    fn find_changes(&self, queue: &Queue, gap: &Gap) {
        let branch = self.core.branch(queue.branch);
        let changes = branch.and_then(|branch| gap.changes(&branch));
        let mut guard = queue.lock();
        let Some(open) = guard.as_mut() else { return };
        match (changes, &mut open.channel.backlog.replay) {
            (Ok(changes), Some(replay)) => replay.begin(changes),
            // The lower directory cannot be read.
            (Err(_), _) => {
                open.channel.end_replay();
                open.channel.overflow();
            }
            (Ok(_), None) => {}
        }
    }

    /// Delivers the next change of a difference. Returns whether there was one.
    fn replay_next(&self, queue: &Arc<Queue>, open: &mut Open) -> bool {
        let replay = open.channel.backlog.replay.as_mut();
        let Some(replay) = replay else { return false };
        let Some(envelope) = replay.next_envelope() else {
            self.end_deleted(queue, open);
            return false;
        };
        self.deliver_to(queue, open, &envelope);
        if let Some(replay) = &mut open.channel.backlog.replay {
            replay.finish_change();
        }
        true
    }

    /// Delivers a change to one queue.
    fn deliver_to(&self, queue: &Arc<Queue>, open: &mut Open, envelope: &Envelope) {
        let change = self.router.routed(envelope, HEALED);
        // What was made through a mount, the kernel has announced there.
        let by_kernel = match envelope.origin {
            Origin::Mount(mount) => Some(mount),
            Origin::Local | Origin::Session(_) | Origin::Lower | Origin::Restore => None,
        };
        let by_kernel = by_kernel.as_slice();
        let notifications = self.router.notifications(envelope, Round::First(by_kernel));
        for (hearer, notifications) in notifications.by_queue() {
            if Arc::ptr_eq(hearer, queue) {
                self.enqueue(queue, open, notifications, change);
            }
        }
    }

    /// Ends the inotify watches whose inode went while the queue got no events: a difference does
    /// not show an object that had no name at its beginning.
    fn end_deleted(&self, queue: &Arc<Queue>, open: &mut Open) {
        if queue.api != Api::Inotify {
            return;
        }
        let Ok(branch) = self.core.branch(queue.branch) else {
            return;
        };
        let gone = |node: NodeId| branch.getattr(node).is_err();
        let dead: Vec<Slot> = open
            .watches
            .iter()
            .filter(|(_, state)| matches!(state.target, Target::Node(node) if gone(node)))
            .map(|(slot, _)| slot)
            .collect();
        for slot in dead {
            if let Some(state) = open.watches.remove(slot) {
                let wants = state.interest & IN_DELETE_SELF != 0;
                open.enqueue_gone(state.id, wants);
                self.router
                    .remove(queue, slot, &state.target, state.interest);
            }
        }
    }
}
