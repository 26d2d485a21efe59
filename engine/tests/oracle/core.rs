//! Runs the same operations on FsCore, with the watches of the watch service, and reads the rings.

use std::sync::Arc;

use agentfs_core::id::{Seq, SessionId};
use agentfs_core::{
    BackstoreMode, Branch, Caller, Errno, FsConfig, FsCore, HandleId, OpenFlags, RenameFlags,
    SetTime, SubscriptionId, XattrFlags,
};
use agentfs_engine::service::{NodeInterest, QueueLimits, WatchService};
use agentfs_engine::{Api, Counts, Queue, WatchId};
use agentfs_proto::record::EventRef;
use agentfs_ring::doorbell::{BellKind, Ringer};
use agentfs_ring::{Bell, Capacity, Consumer, OwnerId};
use agentfs_testkit::inotify_oracle::generate::{DIRECTORIES, FILES};
use agentfs_testkit::inotify_oracle::kernel::{Wd, open_flags};
use agentfs_testkit::inotify_oracle::op::{
    Answer, Cookies, How, INSTANCES, Op, Path, Record, SLOTS,
};

/// A filesystem of its own with a watch service and its queues.
#[derive(Debug)]
pub(crate) struct Core {
    core: FsCore,
    branch: Branch,
    caller: Caller,
    service: Arc<WatchService>,
    subscription: SubscriptionId,
    readers: Vec<Reader>,
    slots: [Option<HandleId>; SLOTS],
}

/// The program's end of a queue.
#[derive(Debug)]
struct Reader {
    queue: Arc<Queue>,
    consumer: Consumer,
    refill: Ringer,
    cookies: Cookies,
}

const SESSION: SessionId = SessionId(1);

impl Core {
    /// Creates a fresh tree that is kept there, with rings of so many bytes.
    pub(crate) fn start(backstore: BackstoreMode, capacity: Capacity) -> Self {
        let config = FsConfig {
            backstore,
            ..FsConfig::default()
        };
        let core = FsCore::new(config).unwrap();
        let branch = core.branch(FsCore::MAIN).unwrap();
        let caller = Caller::root();
        for dir in DIRECTORIES {
            branch.mkdir(&caller, dir, 0o755).unwrap();
        }
        for file in FILES {
            let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
            let handle = branch.open(&caller, file, flags, 0o644).unwrap();
            branch.write(&caller, handle, b"text").unwrap();
            branch.close(&caller, handle).unwrap();
        }
        let service = Arc::new(WatchService::new(core.clone(), QueueLimits::default()).unwrap());
        let subscription = core.subscribe_events(Arc::<WatchService>::clone(&service));
        service.open_session(SESSION, FsCore::MAIN);
        let readers = (0..INSTANCES)
            .map(|_| Reader::open(&service, capacity))
            .collect();
        Self {
            core,
            branch,
            caller,
            service,
            subscription: subscription.unwrap(),
            readers,
            slots: [None; SLOTS],
        }
    }

    /// Carries out an operation; `wd` is what the kernel returned for an operation that concerns a
    /// watch.
    pub(crate) fn run(&mut self, op: Op, wd: Wd) -> Answer {
        let done = match op {
            Op::Watch {
                instance,
                path,
                mask,
            } => self.watch(instance, path, mask, wd),
            Op::Unwatch { instance, .. } => return self.unwatch(instance, wd),
            Op::Drain { instance, room } => {
                return Answer::Records(self.readers[instance].drain(&self.service, room));
            }
            Op::Open { slot, path, how } => self.open(slot, path, how),
            Op::Close { slot } => self.close(slot),
            op => self.change(op),
        };
        match done {
            Ok(()) => Answer::Done,
            Err(_) => Answer::Failed,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.service.counts()
    }

    fn watch(&self, instance: usize, path: Path, mask: u32, wd: Wd) -> Result<(), Errno> {
        let node = self.branch.stat(&self.caller, top(path))?.node;
        let wd = wd.ok_or(Errno::ENOENT)?;
        let interest = NodeInterest {
            mask,
            mount: None,
            after: Seq(0),
        };
        let queue = &self.readers[instance].queue;
        self.service
            .watch_node(queue, watch_id(wd), node, interest)
            .unwrap();
        Ok(())
    }

    fn unwatch(&self, instance: usize, wd: Wd) -> Answer {
        let Some(wd) = wd else { return Answer::Failed };
        let queue = &self.readers[instance].queue;
        self.service.ignore(queue, watch_id(wd)).unwrap();
        Answer::Done
    }

    fn open(&mut self, slot: usize, path: Path, how: How) -> Result<(), Errno> {
        if let Some(old) = self.slots[slot].take() {
            self.branch.close(&self.caller, old)?;
        }
        let flags = OpenFlags::from_bits(open_flags(how).bits());
        let handle = self.branch.open(&self.caller, top(path), flags, 0o644)?;
        self.slots[slot] = Some(handle);
        Ok(())
    }

    fn close(&mut self, slot: usize) -> Result<(), Errno> {
        let handle = self.slots[slot].take().ok_or(Errno::EBADF)?;
        self.branch.close(&self.caller, handle)
    }

    fn slot(&self, slot: usize) -> Result<HandleId, Errno> {
        self.slots[slot].ok_or(Errno::EBADF)
    }

    fn change(&self, op: Op) -> Result<(), Errno> {
        let (branch, caller) = (&self.branch, &self.caller);
        match op {
            Op::Read { slot } => {
                let handle = self.slot(slot)?;
                branch.read_at(caller, handle, 0, &mut [0; 3]).map(drop)
            }
            Op::Write { slot, append, len } => {
                let handle = self.slot(slot)?;
                let size = branch.fstat(handle)?.size;
                let at = if append { size } else { 0 };
                branch
                    .write_at(caller, handle, at, &[b'x'; 8][..len])
                    .map(drop)
            }
            Op::Ftruncate { slot, len } => branch.ftruncate(caller, self.slot(slot)?, len),
            Op::Fchmod { slot } => {
                let handle = self.slot(slot)?;
                let set = agentfs_core::SetAttr {
                    mode: Some(0o600),
                    ..Default::default()
                };
                let node = branch.node_of(handle)?;
                branch
                    .setattr_node(caller, node, Some(handle), &set)
                    .map(drop)
            }
            op => self.change_name(op),
        }
    }

    fn change_name(&self, op: Op) -> Result<(), Errno> {
        let (branch, caller) = (&self.branch, &self.caller);
        match op {
            Op::Truncate { path, len } => branch.truncate(caller, path, len),
            Op::Mkdir { path } => branch.mkdir(caller, path, 0o755).map(drop),
            Op::Rmdir { path } => branch.rmdir(caller, path),
            Op::Unlink { path } => branch.unlink(caller, path),
            Op::Symlink { path } => branch.symlink(caller, "a", path).map(drop),
            Op::Mkfifo { path } => branch.mknod(caller, path, 0o010_755, 0).map(drop),
            Op::Link { from, to } => branch.link(caller, from, to).map(drop),
            Op::Rename { from, to } => branch.rename(caller, from, to, RenameFlags::REPLACE),
            Op::Exchange { from, to } => branch.rename(caller, from, to, RenameFlags::EXCHANGE),
            Op::Chmod { path } => branch.chmod(caller, path, 0o755),
            Op::Utimens { path, atime, mtime } => {
                let time = |set: bool| set.then_some(SetTime::To(1_000_000_000_000));
                branch.utimens(caller, path, true, time(atime), time(mtime))
            }
            Op::SetXattr { path } => {
                branch.setxattr(caller, path, true, b"user.t", b"v", XattrFlags::ANY)
            }
            Op::RemoveXattr { path } => branch.removexattr(caller, path, true, b"user.t"),
            other => unreachable!("{other:?} is no change of a name"),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.service.close_session(SESSION);
        self.core.unsubscribe_events(self.subscription).unwrap();
        assert_eq!(
            self.service.watches(),
            (0, 0),
            "watches of a closed session"
        );
        assert_eq!(self.service.spilled_bytes(), 0);
    }
}

fn top(path: Path) -> &'static str {
    if path.is_empty() { "/" } else { path }
}

fn watch_id(wd: i32) -> WatchId {
    WatchId(u64::try_from(wd).unwrap())
}

impl Reader {
    fn open(service: &WatchService, capacity: Capacity) -> Self {
        let opened = service.open_queue(SESSION, Api::Inotify, capacity).unwrap();
        Self {
            queue: opened.queue,
            consumer: Consumer::open(opened.ring).unwrap(),
            refill: Ringer::from_fd(opened.refill_ringer, BellKind::EventFd),
            cookies: Cookies::default(),
        }
    }

    /// Reads as `read` does: whole records, as many as fit, all of them when the buffer is large. A
    /// record that does not fit stays unread.
    fn drain(&mut self, service: &WatchService, room: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let mut used = 0;
        loop {
            let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
            let mut claim = claim.unwrap();
            let mut refill = false;
            while let Some((record, cookie)) = peek(&mut claim) {
                used += Record::room(&record.name);
                if used > room && room < 65_536 {
                    return records;
                }
                let cookie = self.cookies.number(cookie);
                records.push(Record { cookie, ..record });
                refill |= claim.release() == Bell::Ring;
            }
            drop(claim);
            if !refill {
                return records;
            }
            // A program with a server would wait for the refill here.
            self.refill.ring().unwrap();
            service.refill(&self.queue);
        }
    }
}

/// Returns the next record, which is not yet released.
fn peek(claim: &mut agentfs_ring::Claim<'_>) -> Option<(Record, u32)> {
    let record = claim.next().unwrap()?;
    let record = record.to_vec();
    let event = EventRef::parse(&record).unwrap();
    let head = event.head();
    let wd = u32::try_from(head.watch & 0xFFFF_FFFF).unwrap();
    let record = Record {
        wd: wd.cast_signed(),
        mask: head.mask,
        cookie: 0,
        name: event.path().to_vec(),
    };
    Some((record, head.cookie))
}
