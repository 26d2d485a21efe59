//! Telling a reader that has made room what waits: records, then differences.

use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::NodeId;
use agentfs_proto::record::flags::HEALED;

use super::WatchService;
use crate::queue::{Open, Queue, Slot, Target};
use crate::synth::inotify::IN_DELETE_SELF;
use crate::watch::Api;

impl WatchService {
    /// Moves what waits into the queue's ring, as far as there is room. For when the program rings
    /// the refill doorbell.
    pub fn refill(&self, queue: &Arc<Queue>) {
        let mut guard = queue.lock();
        let Some(open) = guard.as_mut() else { return };
        while open.channel.drain_replay() {
            if self.tell_next(queue, open) || open.channel.end_replay() {
                continue;
            }
            if !open.channel.drain_spill() || !self.start_replay(queue, open) {
                break;
            }
        }
        open.channel.flush();
        self.judge(queue, open);
    }

    /// Tells the next change of a difference, if one is being told.
    fn tell_next(&self, queue: &Arc<Queue>, open: &mut Open) -> bool {
        let replay = open.channel.backlog.replay.as_mut();
        let Some(replay) = replay else { return false };
        let Some(envelope) = replay.speak() else {
            self.bury(queue, open);
            return false;
        };
        self.tell_alone(queue, open, &envelope);
        if let Some(replay) = &mut open.channel.backlog.replay {
            replay.fall_silent();
        }
        true
    }

    /// Tells one queue of a change.
    fn tell_alone(&self, queue: &Arc<Queue>, open: &mut Open, envelope: &Envelope) {
        let news = self.router.news(envelope, HEALED);
        let freeze = || self.freeze(queue.branch);
        self.router.route(envelope, |hit, hits| {
            if std::ptr::eq(hit, &raw const **queue) {
                open.tell_all(hits, news, &freeze, |slot, state| {
                    self.router
                        .remove(queue, slot, &state.target, state.interest);
                });
            }
        });
    }

    /// Begins to tell what changed since the reader fell behind, if it did.
    fn start_replay(&self, queue: &Arc<Queue>, open: &mut Open) -> bool {
        let Some(base) = open.channel.backlog.heal.take() else {
            return false;
        };
        let branch = self.core.branch(queue.branch);
        let pool = Arc::clone(&self.pool);
        match branch.and_then(|branch| base.replay(&branch, pool)) {
            Ok(replay) => {
                open.channel.counters.healed += 1;
                open.channel.backlog.told_through = replay.seq();
                open.channel.backlog.replay = Some(replay);
            }
            // The lower layer cannot be read, or the branch is gone.
            Err(_) => open.channel.overflow(),
        }
        true
    }

    /// Ends the inotify watches whose inode went while nothing was told: a difference does not show
    /// what had no name at its beginning.
    fn bury(&self, queue: &Arc<Queue>, open: &mut Open) {
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
        let freeze = || self.freeze(queue.branch);
        for slot in dead {
            if let Some(state) = open.watches.remove(slot) {
                let wants = state.interest & IN_DELETE_SELF != 0;
                open.tell_gone(state.id, wants, &freeze);
                self.router
                    .remove(queue, slot, &state.target, state.interest);
            }
        }
    }
}
