//! Queue and watch requests.

use agentfs_core::event::ObjectKind;
use agentfs_core::id::{MountId, NodeId, SessionId};
use agentfs_core::{Access, Branch, Caller};
use agentfs_engine::service::{NodeInterest, TreeInterest};
use agentfs_engine::{Api, QueueId, WatchId};
use agentfs_proto::message::{
    ByPath, Code, DoorbellGiven, QueueKind, QueueOpen, QueueOpened, Target, WatchBatch,
    WatchBatched, WatchItem, WatchOutcome, WatchRegisterFSEvents, WatchRegisterInotify,
    WatchRegisterKqueue, WatchRegisterTree, WatchRegistered, WatchUnregister,
};
use agentfs_ring::Capacity;

use crate::base::queues::{OpenQueue, Queues};
use crate::base::refusal::Refusal;
use crate::base::reply::ReplyWithFds;
use crate::shared::services::Services;

/// `kFSEventStreamEventIdSinceNow`.
const EVENT_ID_SINCE_NOW: u64 = u64::MAX;

/// The queues and watches of one session.
#[derive(Debug)]
pub(crate) struct Watches<'a> {
    pub(crate) session: SessionId,
    pub(crate) branch: &'a Branch,
    pub(crate) caller: &'a Caller,
    pub(crate) queues: &'a mut Queues,
    pub(crate) services: &'a Services,
}

/// What a registration watches.
struct Found {
    node: NodeId,
    mount: Option<MountId>,
}

fn not_served(what: &str, way_out: &str) -> Refusal {
    let text = format!("this daemon does not serve {what} for FSEvents streams yet; {way_out}");
    Refusal::new(Code::UNSUPPORTED, text)
}

impl Watches<'_> {
    /// Opens a queue; its ring and doorbells go along as descriptors.
    pub(super) fn open_queue(&mut self, request: &QueueOpen) -> Result<ReplyWithFds, Refusal> {
        let capacity = if request.capacity == 0 {
            Capacity::DEFAULT
        } else {
            let bytes = usize::try_from(request.capacity).unwrap_or(usize::MAX);
            Capacity::new(bytes).map_err(|error| Refusal::invalid(error.to_string()))?
        };
        let ring_bytes = capacity.bytes() as u64;
        let limit = self.services.limits().ring_bytes;
        if self.queues.ring_bytes().saturating_add(ring_bytes) > limit {
            let text = format!(
                "the rings of a session have at most {limit} bytes; close queues, or open smaller ones"
            );
            return Err(Refusal::limit(text));
        }
        let opened =
            self.services
                .watches()
                .open_queue(self.session, api_of(request.kind), capacity)?;
        let number = opened.queue.id.0;
        let refill = match self.services.refills().insert(&opened.queue, opened.refill) {
            Ok(refill) => refill,
            Err(error) => {
                self.services
                    .watches()
                    .close_queue(self.session, opened.queue.id)?;
                let text = format!("the refill doorbell cannot be watched: {error}");
                return Err(Refusal::new(Code::RESOURCES, text));
            }
        };
        let queue = OpenQueue {
            queue: opened.queue,
            ring_bytes,
            refill,
            doorbell_ident: 0,
        };
        self.queues.insert(number, queue);
        let capacity = u32::try_from(capacity.bytes()).unwrap_or(u32::MAX);
        let descriptors = vec![opened.ring, opened.refill_ringer, opened.doorbell];
        Ok(ReplyWithFds::with(
            QueueOpened {
                queue: number,
                capacity,
            },
            descriptors,
        ))
    }

    /// Closes a queue, with its watches.
    pub(super) fn close_queue(&mut self, number: u32) -> Result<ReplyWithFds, Refusal> {
        let closed = self.queues.remove(number)?;
        self.services.refills().remove(closed.refill);
        self.services
            .watches()
            .close_queue(self.session, QueueId(number))?;
        Ok(ReplyWithFds::done())
    }

    /// Makes a new doorbell for a queue.
    pub(super) fn renew_doorbell(&self, number: u32) -> Result<ReplyWithFds, Refusal> {
        let doorbell = self
            .services
            .watches()
            .renew_doorbell(self.session, QueueId(number))?;
        Ok(ReplyWithFds::with(
            DoorbellGiven { queue: number },
            vec![doorbell],
        ))
    }

    /// Registers a knote.
    pub(super) fn kqueue(&mut self, it: &WatchRegisterKqueue) -> Result<WatchRegistered, Refusal> {
        let found = self.find(&it.target, Access::EXISTS)?;
        self.watch_node(it.queue, it.watch, it.fflags, &found)
    }

    /// Registers an inotify watch.
    pub(super) fn inotify(
        &mut self,
        it: &WatchRegisterInotify,
    ) -> Result<WatchRegistered, Refusal> {
        let found = self.find(&it.target, Access::READ)?;
        self.watch_node(it.queue, u64::from(it.wd), it.mask, &found)
    }

    fn watch_node(
        &mut self,
        queue: u32,
        watch: u64,
        mask: u32,
        found: &Found,
    ) -> Result<WatchRegistered, Refusal> {
        self.queues.count_watch(self.services.limits().watches)?;
        let queue = self.queues.get(queue)?;
        let interest = NodeInterest {
            mask,
            mount: found.mount,
            after: self.branch.last_seq(),
        };
        self.services
            .watches()
            .watch_node(queue, WatchId(watch), found.node, interest)?;
        Ok(WatchRegistered { node: found.node.0 })
    }

    /// Registers the paths of an FSEvents stream.
    pub(super) fn fs_events(
        &mut self,
        it: &WatchRegisterFSEvents,
    ) -> Result<WatchRegistered, Refusal> {
        if it.latency_ns != 0 {
            return Err(not_served("a latency", "send latency_ns 0"));
        }
        if it.since != EVENT_ID_SINCE_NOW {
            let way_out = "send u64::MAX as since, which starts at the present";
            return Err(not_served("a start at an earlier event", way_out));
        }
        let paths = it
            .paths
            .iter()
            .map(|path| self.canonical(path))
            .collect::<Result<_, _>>()?;
        self.watch_trees(it.queue, it.watch, paths, it.flags, false)
    }

    /// Registers a tree of a native subscription.
    pub(super) fn tree(&mut self, it: &WatchRegisterTree) -> Result<WatchRegistered, Refusal> {
        let paths = vec![self.canonical(&it.path)?];
        self.watch_trees(it.queue, it.watch, paths, 0, it.activity)
    }

    fn watch_trees(
        &mut self,
        queue: u32,
        watch: u64,
        paths: Vec<Vec<u8>>,
        flags: u32,
        activity: bool,
    ) -> Result<WatchRegistered, Refusal> {
        self.queues.count_watch(self.services.limits().watches)?;
        let queue = self.queues.get(queue)?;
        let after = self.branch.last_seq();
        let interest = TreeInterest {
            paths,
            flags,
            activity,
            mount: None,
            after,
        };
        self.services
            .watches()
            .watch_trees(queue, WatchId(watch), &interest)?;
        Ok(WatchRegistered { node: 0 })
    }

    /// Removes a watch.
    pub(super) fn unregister(&self, it: &WatchUnregister) -> Result<ReplyWithFds, Refusal> {
        let queue = self.queues.get(it.queue)?;
        self.services.watches().unwatch(queue, WatchId(it.watch))?;
        Ok(ReplyWithFds::done())
    }

    /// Carries out a batch, of which each item succeeds or fails by itself.
    pub(super) fn batch(&mut self, batch: &WatchBatch) -> WatchBatched {
        let outcomes = batch.items.iter().map(|item| {
            let done = match item {
                WatchItem::Kqueue(it) => self.kqueue(it),
                WatchItem::Inotify(it) => self.inotify(it),
                WatchItem::Unregister(it) => {
                    self.unregister(it).map(|_| WatchRegistered { node: 0 })
                }
            };
            match done {
                Ok(registered) => WatchOutcome {
                    code: 0,
                    errno: 0,
                    node: registered.node,
                },
                Err(Refusal(error)) => WatchOutcome {
                    code: error.code.0,
                    errno: error.errno,
                    node: 0,
                },
            }
        });
        WatchBatched {
            outcomes: outcomes.collect(),
        }
    }

    /// Finds the object of a watch, if the session's branch shows it.
    fn find(&self, target: &Target, access: Access) -> Result<Found, Refusal> {
        match target {
            Target::Path(ByPath { path, follow }) => {
                let attr = if *follow {
                    self.branch.stat(self.caller, path.as_path())?
                } else {
                    self.branch.lstat(self.caller, path.as_path())?
                };
                if attr.kind != ObjectKind::Symlink {
                    self.branch.access_node(self.caller, attr.node, access)?;
                }
                Ok(Found {
                    node: attr.node,
                    mount: None,
                })
            }
            Target::Inode(inode) => {
                let shown = self.services.mounts().by_device(inode.st_dev);
                let shown = shown.filter(|(_, branch)| *branch == self.branch.id());
                let (mount, _) = shown.ok_or_else(|| {
                    let device = inode.st_dev;
                    Refusal::not_found(format!(
                        "device {device} is no mount of the session's branch"
                    ))
                })?;
                let attr = self.branch.getattr(NodeId(inode.st_ino))?;
                Ok(Found {
                    node: attr.node,
                    mount: Some(mount),
                })
            }
        }
    }

    /// Returns the path as events name it. A path that does not exist yet is taken as it is
    /// written.
    fn canonical(&self, path: &[u8]) -> Result<Vec<u8>, Refusal> {
        use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
        if path.first() != Some(&b'/') || path.contains(&0) {
            let path = path.escape_ascii();
            return Err(Refusal::invalid(format!(
                "{path} is not an absolute path of the branch"
            )));
        }
        let text = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        let found = self.branch.stat(self.caller, text).ok();
        let known = found.and_then(|attr| self.branch.path_of(attr.node));
        Ok(known.map_or_else(|| cleaned(path), |path| path.into_os_string().into_vec()))
    }
}

/// Returns the path without empty components, `.` and `..`.
pub(crate) fn cleaned(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let mut clean = Vec::with_capacity(path.len());
    for name in &names {
        clean.push(b'/');
        clean.extend_from_slice(name);
    }
    if clean.is_empty() {
        b"/".to_vec()
    } else {
        clean
    }
}

fn api_of(kind: QueueKind) -> Api {
    match kind {
        QueueKind::KqueueXnu => Api::KqueueXnu,
        QueueKind::KqueueFreeBsd => Api::KqueueFreeBsd,
        QueueKind::Inotify => Api::Inotify,
        QueueKind::FsEvents => Api::FsEvents,
        QueueKind::Native => Api::Native,
    }
}

#[cfg(test)]
mod tests {
    use super::cleaned;

    #[test]
    fn a_path_that_is_not_there_is_cleaned_by_its_letters() {
        let clean = |path: &str| String::from_utf8(cleaned(path.as_bytes())).unwrap_or_default();
        assert_eq!(clean("/"), "/");
        assert_eq!(clean("//a/./b/../c/"), "/a/c");
        assert_eq!(clean("/../.."), "/");
    }
}
