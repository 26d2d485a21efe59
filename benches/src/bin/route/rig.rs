//! A filesystem with a watch service, and the reading end of one queue.

use std::sync::Arc;
use std::time::Instant;

use agentfs_core::event::{Change, CreatedBy, Envelope, NodeRef, ObjectKind, Origin, Place};
use agentfs_core::id::{NodeId, Seq, SessionId};
use agentfs_core::{Branch, Caller, FsConfig, FsCore};
use agentfs_engine::service::{NodeInterest, OpenedQueue, QueueLimits, TreeInterest, WatchService};
use agentfs_engine::{Api, Queue, WatchId};
use agentfs_ring::{Bell, Capacity, Consumer, OwnerId};

use crate::Failure;

#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) branch: Branch,
    pub(crate) caller: Caller,
    pub(crate) service: Arc<WatchService>,
}

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) queue: Arc<Queue>,
    pub(crate) consumer: Consumer,
}

const SESSION: SessionId = SessionId(1);

impl Rig {
    /// With the service listening, or without anybody.
    pub(crate) fn new(listening: bool) -> Result<Self, Failure> {
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

    pub(crate) fn open(&self, api: Api, bytes: usize) -> Result<Reader, Failure> {
        let opened = self
            .service
            .open_queue(SESSION, api, Capacity::new(bytes)?)?;
        let OpenedQueue { queue, ring, .. } = opened;
        Ok(Reader {
            queue,
            consumer: Consumer::open(ring)?,
        })
    }

    pub(crate) fn watch(
        &self,
        reader: &Reader,
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

    pub(crate) fn watch_tree(&self, reader: &Reader, id: u64, path: &str) -> Result<(), Failure> {
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

impl Reader {
    /// Pops all there is, refilling as often as it takes, and counts it.
    pub(crate) fn drain(&self, service: &WatchService) -> Result<usize, Failure> {
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

    /// Pops what is in the ring. Touches every record, as a program would.
    pub(crate) fn pop(&self) -> Result<(usize, bool), Failure> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        let mut claim = claim.ok_or("somebody else pops")?;
        let (mut records, mut sum) = (0, 0_u64);
        while let Some(record) = claim.next()? {
            sum = record
                .iter()
                .step_by(8)
                .fold(sum, |sum, byte| sum + u64::from(*byte));
            records += 1;
        }
        std::hint::black_box(sum);
        Ok((records, claim.release() == Bell::Ring))
    }

    pub(crate) fn arm(&self) -> Result<(), Failure> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        let _outcome = claim.ok_or("somebody else pops")?.arm()?;
        Ok(())
    }
}

/// A file that came to be.
pub(crate) fn created(parent: NodeId, dir: &Arc<[u8]>, name: &[u8]) -> Envelope {
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

/// Nanoseconds of each of `count` things.
pub(crate) fn per<T>(
    count: usize,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<(f64, T), Failure> {
    let start = Instant::now();
    let result = work()?;
    let nanos = start.elapsed().as_secs_f64() * 1e9;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = nanos / count as f64;
    Ok((each, result))
}
