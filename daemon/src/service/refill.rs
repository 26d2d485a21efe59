//! Telling a reader that has made room what waits: records, then differences.

use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::NodeId;
use agentfs_proto::record::flags::HEALED;

use super::WatchService;
use crate::heal::{Base, Gap};
use crate::queue::{Open, Queue, Slot, Target};
use crate::synth::inotify::IN_DELETE_SELF;
use crate::watch::{Api, Telling};

/// How a turn at a queue ended.
enum Turn {
    /// Nothing waits any more, or there is no room.
    Over,
    /// Committers may want the queue.
    Pause,
    /// The difference has to be found.
    Gap(Box<Gap>),
}

/// Changes told in one turn.
const CHANGES: usize = 256;

impl WatchService {
    /// Moves what waits into the queue's ring, as far as there is room. For when the program rings
    /// the refill doorbell.
    pub fn refill(&self, queue: &Arc<Queue>) {
        loop {
            match self.turn(queue) {
                Turn::Over => return,
                Turn::Pause => {}
                Turn::Gap(gap) => self.find_changes(queue, &gap),
            }
        }
    }

    fn turn(&self, queue: &Arc<Queue>) -> Turn {
        let mut guard = queue.lock();
        let Some(open) = guard.as_mut() else {
            return Turn::Over;
        };
        let turn = self.take_turn(queue, open);
        open.channel.flush();
        self.judge(queue, open);
        turn
    }

    fn take_turn(&self, queue: &Arc<Queue>, open: &mut Open) -> Turn {
        for _ in 0..CHANGES {
            if open.channel.is_awaiting() || !open.channel.drain_replay() {
                return Turn::Over;
            }
            if self.tell_next(queue, open) || open.channel.end_replay() {
                continue;
            }
            if !open.channel.drain_spill() {
                return Turn::Over;
            }
            return match open.channel.backlog.heal.take() {
                Some(base) => self.open_gap(queue, open, base),
                None => Turn::Over,
            };
        }
        Turn::Pause
    }

    /// From here on the reader is told of changes again, behind the difference up to here.
    fn open_gap(&self, queue: &Queue, open: &mut Open, base: Base) -> Turn {
        let Ok(branch) = self.core.branch(queue.branch) else {
            // Nothing will happen in a branch that is deleted.
            return Turn::Over;
        };
        let gap = base.gap(&branch);
        let replay = gap.replay(queue.branch, Arc::clone(&self.pool));
        open.channel.counters.healed += 1;
        open.channel.backlog.told_through = replay.seq();
        open.channel.backlog.replay = Some(replay);
        Turn::Gap(Box::new(gap))
    }

    /// Finds the difference without holding up who commits meanwhile.
    fn find_changes(&self, queue: &Queue, gap: &Gap) {
        let branch = self.core.branch(queue.branch);
        let changes = branch.and_then(|branch| gap.changes(&branch));
        let mut guard = queue.lock();
        let Some(open) = guard.as_mut() else { return };
        match (changes, &mut open.channel.backlog.replay) {
            (Ok(changes), Some(replay)) => replay.begin(changes),
            // The lower layer cannot be read.
            (Err(_), _) => {
                open.channel.end_replay();
                open.channel.overflow();
            }
            (Ok(_), None) => {}
        }
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
        self.router
            .route(envelope, Telling::First(&[]), |hit, hits| {
                if std::ptr::eq(hit, &raw const **queue) {
                    open.tell_all(hits, news, &freeze, |slot, state| {
                        self.router
                            .remove(queue, slot, &state.target, state.interest);
                    });
                }
            });
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
