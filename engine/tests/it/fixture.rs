//! FsCore with a watch service, and the programs' ends of its queues.

use std::path::Path;
use std::sync::Arc;

use agentfs_core::event::Origin;
use agentfs_core::id::{MountId, NodeId, SessionId};
use agentfs_core::{Branch, Caller, FsConfig, FsCore, OpenFlags, RenameFlags};
use agentfs_engine::service::{NodeInterest, QueueLimits, TreeInterest, WatchService};
use agentfs_engine::{Api, Queue, WatchId};
use agentfs_proto::record::{AgentFsEvent, EventRef};
use agentfs_ring::doorbell::{BellKind, Waiter};
use agentfs_ring::{ArmOutcome, Bell, Capacity, Consumer, OwnerId};

/// A filesystem and its watch service.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) core: FsCore,
    pub(crate) branch: Branch,
    pub(crate) caller: Caller,
    pub(crate) service: Arc<WatchService>,
}

/// The program's end of a queue.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) queue: Arc<Queue>,
    pub(crate) consumer: Consumer,
    pub(crate) doorbell: Waiter,
}

/// A record as it was popped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Popped {
    pub(crate) head: AgentFsEvent,
    pub(crate) path: String,
    pub(crate) aux: String,
}

pub(crate) const SESSION: SessionId = SessionId(1);

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(FsConfig::default(), QueueLimits::default())
    }

    pub(crate) fn with(config: FsConfig, limits: QueueLimits) -> Self {
        let core = FsCore::new(config).unwrap();
        let service = Arc::new(WatchService::new(core.clone(), limits).unwrap());
        core.subscribe_events(service.clone()).unwrap();
        service.open_session(SESSION, FsCore::MAIN);
        Self {
            branch: core.branch(FsCore::MAIN).unwrap(),
            core,
            caller: Caller::root(),
            service,
        }
    }

    pub(crate) fn open(&self, api: Api) -> Reader {
        self.open_sized(api, Capacity::DEFAULT)
    }

    pub(crate) fn open_sized(&self, api: Api, capacity: Capacity) -> Reader {
        self.open_for(SESSION, api, capacity)
    }

    pub(crate) fn open_for(&self, session: SessionId, api: Api, capacity: Capacity) -> Reader {
        let opened = self.service.open_queue(session, api, capacity).unwrap();
        Reader {
            queue: opened.queue,
            consumer: Consumer::open(opened.ring).unwrap(),
            doorbell: Waiter::from_fd(opened.doorbell, BellKind::Pipe),
        }
    }

    pub(crate) fn node(&self, path: &str) -> NodeId {
        self.branch.lstat(&self.caller, path).unwrap().node
    }

    /// Watches the node that a path names now, with this number as the number of the watch.
    pub(crate) fn watch(&self, reader: &Reader, id: u64, path: &str, mask: u32) {
        self.watch_from(reader, id, path, mask, None);
    }

    pub(crate) fn watch_from(
        &self,
        reader: &Reader,
        id: u64,
        path: &str,
        mask: u32,
        mount: Option<MountId>,
    ) {
        self.watch_node(&reader.queue, id, path, mask, mount);
    }

    /// Watches as [`watch_from`](Self::watch_from) does, for a queue without a reader.
    pub(crate) fn watch_node(
        &self,
        queue: &Arc<Queue>,
        id: u64,
        path: &str,
        mask: u32,
        mount: Option<MountId>,
    ) {
        let interest = NodeInterest {
            mask,
            mount,
            after: self.branch.last_seq(),
        };
        let node = self.node(path);
        self.service
            .watch_node(queue, WatchId(id), node, interest)
            .unwrap();
    }

    /// Watches trees, with the create flags of FSEvents or, for a native queue, without.
    pub(crate) fn watch_trees(&self, reader: &Reader, id: u64, paths: &[&str], flags: u32) {
        let interest = TreeInterest {
            paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
            flags,
            activity: false,
            mount: None,
            after: self.branch.last_seq(),
        };
        self.service
            .watch_trees(&reader.queue, WatchId(id), &interest)
            .unwrap();
    }

    pub(crate) fn mkdir(&self, path: &str) {
        self.branch.mkdir(&self.caller, path, 0o755).unwrap();
    }

    /// Creates an empty file, or opens and closes one that exists.
    pub(crate) fn create(&self, path: &str) {
        self.write(path, b"");
    }

    /// Writes at the beginning of a file, which is created if it does not exist.
    pub(crate) fn write(&self, path: &str, data: &[u8]) {
        self.write_as(&self.caller, path, data);
    }

    pub(crate) fn write_as(&self, caller: &Caller, path: &str, data: &[u8]) {
        write_in(&self.branch, caller, path, data);
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        self.branch
            .rename(&self.caller, from, to, RenameFlags::REPLACE)
            .unwrap();
    }

    pub(crate) fn unlink(&self, path: &str) {
        self.branch.unlink(&self.caller, path).unwrap();
    }

    /// Returns a caller that works on a mount.
    pub(crate) fn on_mount(&self, mount: u64) -> Caller {
        Caller::root().with_origin(Origin::Mount(MountId(mount)))
    }

    /// Reads everything that waits, with the refills that this takes.
    pub(crate) fn read(&self, reader: &Reader) -> Vec<Popped> {
        let mut all = Vec::new();
        loop {
            let (records, wants_refill) = reader.pop(usize::MAX);
            all.extend(records);
            if !wants_refill {
                return all;
            }
            self.service.refill(&reader.queue);
        }
    }
}

pub(crate) fn write_in(branch: &Branch, caller: &Caller, path: &str, data: &[u8]) {
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let handle = branch.open(caller, path, flags, 0o644).unwrap();
    assert_eq!(branch.write(caller, handle, data).unwrap(), data.len());
    branch.close(caller, handle).unwrap();
}

impl Reader {
    /// Pops at most `most` records. Returns also whether the service waits for the room.
    pub(crate) fn pop(&self, most: usize) -> (Vec<Popped>, bool) {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        let mut claim = claim.unwrap();
        let mut popped = Vec::new();
        while popped.len() < most {
            let Some(record) = claim.next().unwrap() else {
                break;
            };
            let record = record.to_vec();
            let event = EventRef::parse(&record).unwrap();
            popped.push(Popped {
                head: *event.head(),
                path: String::from_utf8_lossy(event.path()).into_owned(),
                aux: String::from_utf8_lossy(event.aux()).into_owned(),
            });
        }
        let wants_refill = claim.release() == Bell::Ring;
        (popped, wants_refill)
    }

    /// Arms the doorbell, as a reader does before it sleeps.
    pub(crate) fn arm(&self) -> ArmOutcome {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        claim.unwrap().arm().unwrap()
    }
}

/// Returns watch and mask of each record.
pub(crate) fn masks(records: &[Popped]) -> Vec<(u64, u32)> {
    records
        .iter()
        .map(|record| (record.head.watch, record.head.mask))
        .collect()
}

/// Returns kind and paths of each record.
pub(crate) fn stories(records: &[Popped]) -> Vec<String> {
    records
        .iter()
        .map(|record| {
            let Popped { head, path, aux } = record;
            if aux.is_empty() {
                format!("{} {path}", head.kind)
            } else {
                format!("{} {path} {aux}", head.kind)
            }
        })
        .collect()
}

/// Creates a host directory with some files, to be the lower directory of a branch.
pub(crate) fn lower(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::write(path, b"text").unwrap();
    }
    dir
}
