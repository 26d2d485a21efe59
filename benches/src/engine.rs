//! The engine in this process: a filesystem with a watch service, and the reading end of a queue.
//!
//! There is no daemon, no socket and no mount: what is measured on it is the way from the commit to
//! the record, by the thread that commits.

use std::sync::Arc;
use std::time::Instant;

use agentfs_core::event::{Change, CreatedBy, Envelope, NodeRef, ObjectKind, Origin, Place};
use agentfs_core::id::{NodeId, Seq, SessionId};
use agentfs_core::{Branch, Caller, FsConfig, FsCore};
use agentfs_engine::service::{NodeInterest, OpenedQueue, QueueLimits, TreeInterest, WatchService};
use agentfs_engine::{Api, Queue, WatchId};
use agentfs_ring::{Bell, Capacity, Consumer, OwnerId};

use crate::Failure;
use crate::statistics::float;

/// A filesystem in memory, and the watch service over it.
#[derive(Debug)]
pub struct Engine {
    /// The first branch.
    pub branch: Branch,
    /// Root.
    pub caller: Caller,
    /// One session is open, in the first branch.
    pub service: Arc<WatchService>,
}

/// The reading end of a queue, as a program has it.
#[derive(Debug)]
pub struct QueueReader {
    queue: Arc<Queue>,
    consumer: Consumer,
}

const SESSION: SessionId = SessionId(1);

impl Engine {
    /// Creates an engine whose service hears of every change, or one that nobody listens to.
    ///
    /// # Errors
    ///
    /// Fails when the filesystem or the service cannot be made.
    pub fn new(listening: bool) -> Result<Self, Failure> {
        let core = FsCore::new(FsConfig::default())?;
        let limits = QueueLimits::default();
        let service = Arc::new(WatchService::new(core.clone(), limits)?);
        if listening {
            core.subscribe_events(Arc::<WatchService>::clone(&service))?;
        }
        service.open_session(SESSION, FsCore::MAIN);
        Ok(Self {
            branch: core.branch(FsCore::MAIN)?,
            caller: Caller::root(),
            service,
        })
    }

    /// Opens a queue with a ring of so many bytes, a power of two.
    ///
    /// # Errors
    ///
    /// Fails when there is no memory for the ring.
    pub fn open(&self, api: Api, bytes: usize) -> Result<QueueReader, Failure> {
        let opened = self
            .service
            .open_queue(SESSION, api, Capacity::new(bytes)?)?;
        let OpenedQueue { queue, ring, .. } = opened;
        Ok(QueueReader {
            queue,
            consumer: Consumer::open(ring)?,
        })
    }

    /// Watches a node for what `mask` selects, in the words of the queue's API.
    ///
    /// # Errors
    ///
    /// Fails when there are too many watches.
    pub fn watch(
        &self,
        reader: &QueueReader,
        id: u64,
        node: NodeId,
        mask: u32,
    ) -> Result<(), Failure> {
        let interest = NodeInterest {
            mask,
            mount: None,
            after: Seq(0),
        };
        self.service
            .watch_node(&reader.queue, WatchId(id), node, interest)?;
        Ok(())
    }

    /// Watches everything below a path.
    ///
    /// # Errors
    ///
    /// Fails when there are too many watches.
    pub fn watch_tree(&self, reader: &QueueReader, id: u64, path: &str) -> Result<(), Failure> {
        let interest = TreeInterest {
            paths: vec![path.as_bytes().to_vec()],
            flags: 0,
            activity: false,
            mount: None,
            after: Seq(0),
        };
        self.service
            .watch_trees(&reader.queue, WatchId(id), &interest)?;
        Ok(())
    }
}

impl QueueReader {
    /// Pops all there is, refilling as often as it takes, and returns how many records it was.
    ///
    /// # Errors
    ///
    /// Fails when the ring is corrupt or somebody else pops.
    pub fn drain(&self, service: &WatchService) -> Result<usize, Failure> {
        let mut records = 0;
        loop {
            let (popped, wants_refill) = self.pop()?;
            records += popped;
            if !wants_refill {
                return Ok(records);
            }
            service.refill(&self.queue);
        }
    }

    /// Pops what is in the ring, and touches every record as a program would.
    ///
    /// Returns how many records it was, and whether more wait for room.
    ///
    /// # Errors
    ///
    /// Fails when the ring is corrupt or somebody else pops.
    pub fn pop(&self) -> Result<(usize, bool), Failure> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        let mut claim = claim.ok_or("somebody else pops")?;
        let (mut records, mut sum) = (0, 0_u64);
        // Longer than any record. Memory for each one would be measured, too.
        let mut copy = [0; 16 << 10];
        while let Some(record) = claim.next()? {
            let bytes = record.copy_to(&mut copy).ok_or("a record is too long")?;
            sum = bytes
                .iter()
                .step_by(8)
                .fold(sum, |sum, byte| sum + u64::from(*byte));
            records += 1;
        }
        std::hint::black_box(sum);
        Ok((records, claim.release() == Bell::Ring))
    }

    /// Falls asleep, as far as the producer can see.
    ///
    /// # Errors
    ///
    /// Fails when the ring is corrupt or somebody else pops.
    pub fn arm(&self) -> Result<(), Failure> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        let _outcome = claim.ok_or("somebody else pops")?.arm()?;
        Ok(())
    }
}

/// Returns the event of a new file.
#[must_use]
pub fn created(parent: NodeId, dir: &Arc<[u8]>, name: &[u8]) -> Envelope {
    Envelope {
        seq: Seq(1),
        time_ns: 0,
        branch: FsCore::MAIN,
        pid: 1,
        origin: Origin::Local,
        change: Change::Created {
            node: NodeRef {
                id: NodeId(7),
                kind: ObjectKind::File,
                nlink: 1,
                open: false,
            },
            at: Place {
                parent,
                dir: Arc::clone(dir),
                name: name.into(),
            },
            by: CreatedBy::New,
        },
    }
}

/// Does the work, and returns the nanoseconds of each of its `count` parts.
pub(crate) fn per<T>(
    count: usize,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(f64, T), Failure> {
    let start = Instant::now();
    let result = work()?;
    let nanos = start.elapsed().as_secs_f64() * 1e9;
    Ok((nanos / float(count as u64), result))
}
