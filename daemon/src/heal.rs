//! What a queue is told instead of events when it reads too slowly: the difference between the
//! branch as its reader last knew it and the branch as it is.

#![expect(
    dead_code,
    reason = "no branch can be frozen yet, so that slow readers get an overflow record"
)]

use std::fmt;
use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::Seq;
use agentfs_proto::record::AgentFsEvent;

use crate::channel::wait_in;
use crate::spill::{Pool, Spill};

/// Asks for the state of a queue's branch, to be told by difference from there on.
pub(crate) type Freeze<'a> = &'a dyn Fn() -> Option<Base>;

/// A branch as a reader last knew it.
#[derive(Debug)]
pub(crate) struct Base {
    seq: Seq,
}

impl Base {
    /// The last change that it holds.
    pub(crate) fn seq(&self) -> Seq {
        self.seq
    }
}

/// A difference that is being told, change by change, as the reader makes room.
pub(crate) struct Replay {
    changes: Box<dyn Iterator<Item = Envelope> + Send>,
    /// Records of the last change that found no room.
    waiting: Spill,
    speaking: bool,
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Replay {
    pub(crate) fn new(changes: Box<dyn Iterator<Item = Envelope> + Send>, pool: Arc<Pool>) -> Self {
        Self {
            changes,
            waiting: Spill::new(pool),
            speaking: false,
        }
    }

    /// Whether what is sent now comes from here.
    pub(crate) fn is_speaking(&self) -> bool {
        self.speaking
    }

    pub(crate) fn wait(&mut self, event: &AgentFsEvent, path: &[u8], aux: &[u8]) {
        wait_in(&mut self.waiting, event, path, aux);
    }

    /// The next change to tell. Until [`fall_silent`](Self::fall_silent) its records wait here.
    pub(crate) fn speak(&mut self) -> Option<Envelope> {
        let change = self.changes.next();
        self.speaking = change.is_some();
        change
    }

    pub(crate) fn fall_silent(&mut self) {
        self.speaking = false;
    }

    pub(crate) fn waiting(&mut self) -> &mut Spill {
        &mut self.waiting
    }
}
