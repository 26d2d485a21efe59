//! The queues of a session, as requests and the status see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use agentfs_engine::{Api, Queue};
use agentfs_proto::message::{QueueKind, QueueStatus};

use crate::base::refill_id::RefillId;
use crate::base::refusal::Refusal;

/// Queues shown of one session in a status report.
const QUEUES_SHOWN: usize = 64;

/// The queues of a session.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    open: BTreeMap<u32, OpenQueue>,
    ring_bytes: u64,
    /// Registrations since the watches were counted last, and how many there were then.
    watches: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct OpenQueue {
    pub(crate) queue: Arc<Queue>,
    pub(crate) ring_bytes: u64,
    /// What the event loop calls its refill doorbell.
    pub(crate) refill: RefillId,
    /// The ident of the reserved knote, which the program names.
    pub(crate) doorbell_ident: u64,
}

impl Queues {
    /// Adds a queue that the watch service has opened.
    pub(crate) fn insert(&mut self, number: u32, queue: OpenQueue) {
        self.ring_bytes += queue.ring_bytes;
        self.open.insert(number, queue);
    }

    /// Takes a queue out. The watch service still has it.
    pub(crate) fn remove(&mut self, number: u32) -> Result<OpenQueue, Refusal> {
        let removed = self.open.remove(&number);
        let removed = removed.ok_or_else(|| no_queue(number))?;
        self.ring_bytes -= removed.ring_bytes;
        Ok(removed)
    }

    /// Returns the bytes of all rings.
    pub(crate) fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Returns what the status shows of them.
    pub(crate) fn status(&self) -> Vec<QueueStatus> {
        let shown = self.open.iter().take(QUEUES_SHOWN);
        shown
            .filter_map(|(number, it)| {
                let report = it.queue.report()?;
                let clamp = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
                Some(QueueStatus {
                    queue: *number,
                    kind: kind_of(it.queue.api),
                    watches: clamp(report.watches),
                    ring_capacity: clamp(report.ring_capacity),
                    ring_unread: clamp(report.ring_unread),
                    spilled: clamp(report.spilled),
                    healing: report.healing,
                    doorbell_ident: it.doorbell_ident,
                })
            })
            .collect()
    }

    /// Refuses a watch beyond the limit. The watches are counted only when the registrations since
    /// the last count could have reached it.
    pub(crate) fn count_watch(&mut self, limit: u32) -> Result<(), Refusal> {
        if self.watches >= u64::from(limit) {
            let reports = self.open.values().filter_map(|it| it.queue.report());
            self.watches = reports.map(|report| report.watches as u64).sum();
        }
        if self.watches >= u64::from(limit) {
            let text = format!(
                "the session has its {limit} watches; end some, or raise --max-watches of the daemon"
            );
            return Err(Refusal::limit(text));
        }
        self.watches += 1;
        Ok(())
    }

    /// Returns the queue of this number.
    pub(crate) fn get(&self, queue: u32) -> Result<&Arc<Queue>, Refusal> {
        self.open
            .get(&queue)
            .map(|it| &it.queue)
            .ok_or_else(|| no_queue(queue))
    }

    /// Records the ident of a queue's reserved knote.
    pub(crate) fn set_ident(&mut self, queue: u32, ident: u64) -> Result<(), Refusal> {
        self.open
            .get_mut(&queue)
            .ok_or_else(|| no_queue(queue))?
            .doorbell_ident = ident;
        Ok(())
    }

    /// Forgets all queues and returns their refill doorbells, which the event loop has to forget.
    pub(crate) fn end(&mut self) -> Vec<RefillId> {
        let ended = std::mem::take(&mut self.open);
        ended.into_values().map(|queue| queue.refill).collect()
    }
}

fn no_queue(queue: u32) -> Refusal {
    Refusal::not_found(format!("the session has no queue {queue}; open it first"))
}

fn kind_of(api: Api) -> QueueKind {
    match api {
        Api::KqueueXnu => QueueKind::KqueueXnu,
        Api::KqueueFreeBsd => QueueKind::KqueueFreeBsd,
        Api::Inotify => QueueKind::Inotify,
        Api::FsEvents => QueueKind::FsEvents,
        Api::Native => QueueKind::Native,
    }
}
