//! Taking the lower directory as it is: every object, with all its bytes, by several threads.

use std::collections::{HashSet, VecDeque};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::freeze::FreezeError;
use crate::lower::Lower;
use crate::lower::taking::{TakingDir, TakingFile};
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::store::content::{File, PAGE};
use crate::store::inode::{Body, Inode};
use crate::store::tree::{Base, Shared, TakenDir, TakenObject, Tree};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// How often an object is looked at again that the host changes while it is taken.
const ATTEMPTS: usize = 100;
/// How many bytes are copied into one extent at most.
const STEP: u64 = 16 << 20;
/// How many threads copy, if the machine has so many processors.
const MOST_THREADS: usize = 8;
/// How many objects are listed that cannot be taken.
const MOST_LISTED: usize = 20;
/// What was changed so shortly before it was taken may have been changed again, with the same time.
const TICK: Nanos = 50_000_000;

/// The work of taking a lower directory.
pub(super) struct Taking<'a> {
    shared: &'a Arc<Shared>,
    lower: &'a Lower,
    /// The last base, whose objects are shared where the host has not changed them.
    former: Option<&'a Base>,
    cancelled: &'a AtomicBool,
    pages: AtomicU64,
    nodes: AtomicU64,
    queue: Mutex<Queue>,
    /// Signalled when a directory was added, and when the work is over.
    added: Condvar,
    taken: Mutex<Taken>,
}

/// The directories that are to be taken.
#[derive(Debug, Default)]
struct Queue {
    dirs: VecDeque<NodeId>,
    /// Those that were ever in it.
    known: HashSet<NodeId>,
    /// How many are being taken.
    under_way: usize,
    failed: Option<Errno>,
}

#[derive(Debug, Default)]
struct Taken {
    objects: Vec<TakenObject>,
    dirs: Vec<TakenDir>,
    /// Files with several names, one of which was taken.
    linked: HashSet<NodeId>,
    unread: Vec<(PathBuf, Errno)>,
}

impl<'a> Taking<'a> {
    pub(super) fn new(
        shared: &'a Arc<Shared>,
        lower: &'a Lower,
        former: Option<&'a Base>,
        cancelled: &'a AtomicBool,
    ) -> Self {
        Self {
            shared,
            lower,
            former,
            cancelled,
            pages: AtomicU64::new(0),
            nodes: AtomicU64::new(0),
            queue: Mutex::new(Queue {
                dirs: VecDeque::from([NodeId::ROOT]),
                known: HashSet::from([NodeId::ROOT]),
                ..Queue::default()
            }),
            added: Condvar::new(),
            taken: Mutex::default(),
        }
    }

    /// Takes everything, and returns the tree.
    pub(super) fn run(self) -> Result<Tree, FreezeError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 1..processors.min(MOST_THREADS) {
                let thread = std::thread::Builder::new().name("agentfs-freeze".to_owned());
                if thread.spawn_scoped(scope, || self.work()).is_err() {
                    // This thread takes everything that no other does.
                    break;
                }
            }
            self.work();
        });
        if let Some(errno) = self.queue.into_inner().failed {
            return Err(match errno {
                Errno::EINTR => FreezeError::Cancelled,
                errno => FreezeError::Store(errno),
            });
        }
        let mut taken = self.taken.into_inner();
        if !taken.unread.is_empty() {
            taken.unread.sort_by(|(a, _), (b, _)| a.cmp(b));
            return Err(FreezeError::Unread(taken.unread));
        }
        let former = self.former.map(|base| &base.tree);
        let (objects, dirs) = (taken.objects, taken.dirs);
        Ok(Tree::of_taken(self.shared.clone(), former, objects, dirs))
    }

    fn work(&self) {
        while let Some(dir) = self.next() {
            let done = self.dir(dir);
            let mut queue = self.queue.lock();
            queue.under_way -= 1;
            if let Err(errno) = done {
                queue.failed.get_or_insert(errno);
            }
            self.added.notify_all();
        }
    }

    /// Waits for a directory; `None` when all are taken.
    fn next(&self) -> Option<NodeId> {
        let mut queue = self.queue.lock();
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if let Some(dir) = queue.dirs.pop_front() {
                queue.under_way += 1;
                return Some(dir);
            }
            if queue.under_way == 0 {
                return None;
            }
            self.added.wait(&mut queue);
        }
    }

    /// Takes a directory with what is in it, but for the directories below, which come into the
    /// queue.
    fn dir(&self, node: NodeId) -> Result<()> {
        let opened = match self.lower.take_dir(node) {
            Ok(Some(opened)) => opened,
            // The host has removed it meanwhile.
            Ok(None) | Err(Errno::ESTALE) => return Ok(()),
            Err(errno) => {
                let path = self.lower.path_of(node);
                self.note_unread(path.as_deref().unwrap_or_default(), b"", errno);
                return Ok(());
            }
        };
        let looked = opened
            .inode()
            .and_then(|inode| Ok((inode, opened.names()?)));
        let (inode, names) = match looked {
            Ok(looked) => looked,
            Err(Errno::ESTALE) => return Ok(()),
            Err(errno) => {
                self.note_unread(opened.path(), b"", errno);
                return Ok(());
            }
        };
        let inode = Inode {
            xattrs: opened.xattrs(),
            names: Names::None,
            ..inode.into()
        };
        let (mut entries, mut objects) = (Vec::with_capacity(names.len()), Vec::new());
        for name in names {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Errno::EINTR);
            }
            match self.object(&opened, &name, &mut objects) {
                Ok(Some((child, kind))) => entries.push((name, child, kind)),
                Ok(None) => {}
                Err(Unread(errno)) if is_of_store(errno) => return Err(errno),
                Err(Unread(errno)) => self.note_unread(opened.path(), &name, errno),
            }
        }
        let nodes = 1 + objects.len() as u64;
        let all = self.nodes.fetch_add(nodes, Ordering::Relaxed) + nodes;
        if all > self.shared.config.limits.nodes {
            return Err(Errno::ENOSPC);
        }
        self.add_dirs(&entries);
        let mut taken = self.taken.lock();
        taken.objects.append(&mut objects);
        taken.dirs.push(TakenDir {
            node,
            inode,
            entries,
        });
        Ok(())
    }

    fn add_dirs(&self, entries: &[(Name, NodeId, ObjectKind)]) {
        let mut queue = self.queue.lock();
        for (_, node, kind) in entries {
            if kind.is_dir() && queue.known.insert(*node) {
                // The deepest first, so that the queue stays short.
                queue.dirs.push_front(*node);
            }
        }
        self.added.notify_all();
    }

    fn note_unread(&self, dir: &[u8], name: &[u8], errno: Errno) {
        let mut taken = self.taken.lock();
        if taken.unread.len() < MOST_LISTED {
            let dir = PathBuf::from(std::ffi::OsString::from_vec(dir.to_vec()));
            let name = std::ffi::OsString::from_vec(name.to_vec());
            taken.unread.push((dir.join(name), errno));
        }
    }

    /// Takes what has a name; `None` when the host no longer has the name.
    fn object(
        &self,
        dir: &TakingDir<'_>,
        name: &Name,
        objects: &mut Vec<TakenObject>,
    ) -> Result<Option<(NodeId, ObjectKind)>, Unread> {
        for _ in 0..ATTEMPTS {
            let looked = match dir.look(name) {
                Err(Errno::ESTALE) => continue,
                looked => looked.map_err(Unread)?,
            };
            let Some((found, host)) = looked else {
                return Ok(None);
            };
            let there = Some((found.node, found.kind));
            if found.kind.is_dir() {
                return Ok(there);
            }
            let inode = Inode::from(host);
            if inode.nlink > 1 && !self.taken.lock().linked.insert(found.node) {
                return Ok(there);
            }
            match self.taken(dir, name, found.node, inode) {
                Ok(inode) => {
                    let node = found.node;
                    objects.push(TakenObject { node, inode });
                    return Ok(there);
                }
                Err(errno) => {
                    self.taken.lock().linked.remove(&found.node);
                    if errno != Errno::ESTALE {
                        return Err(Unread(errno));
                    }
                }
            }
        }
        Err(Unread(Errno::EBUSY))
    }

    /// Returns an object that was just looked at, with its bytes.
    fn taken(
        &self,
        dir: &TakingDir<'_>,
        name: &Name,
        node: NodeId,
        mut inode: Inode,
    ) -> Result<Arc<Inode>> {
        let stamp = inode.stamp();
        inode.names = Names::None;
        let Body::File(_) = &inode.body else {
            return Ok(Arc::new(inode));
        };
        if let Some(same) = self.same_in_former(node, &inode) {
            self.count(same.as_file().map_or(0, File::counted))?;
            return Ok(same);
        }
        let source = dir.open(name, stamp)?;
        inode.xattrs = source.xattrs();
        let file = self.copy(&source, stamp.size)?;
        source.require_version()?;
        inode.body = Body::File(file);
        Ok(Arc::new(inode))
    }

    /// Returns the object of the former base, if the host has not changed it since.
    fn same_in_former(&self, node: NodeId, inode: &Inode) -> Option<Arc<Inode>> {
        let former = self.former?;
        let old = former.tree.inodes().get(node.0)?;
        let version = former.tree.seen().get(node.0)?.version();
        let is_settled = former
            .taken
            .is_some_and(|taken| version.ctime < taken - TICK);
        let is_same = is_settled
            && version == inode.stamp()
            && (old.mode, old.uid, old.gid, old.nlink)
                == (inode.mode, inode.uid, inode.gid, inode.nlink);
        is_same.then(|| old.clone())
    }

    fn count(&self, pages: u64) -> Result<()> {
        let most = self.shared.config.limits.bytes / PAGE;
        match self.pages.fetch_add(pages, Ordering::Relaxed) + pages > most {
            true => Err(Errno::ENOSPC),
            false => Ok(()),
        }
    }

    /// Copies the bytes of a file into extents. Holes stay holes.
    fn copy(&self, source: &TakingFile, size: u64) -> Result<File> {
        let mut file = File::default();
        file.resize(size);
        let mut at = 0;
        while at < size {
            let Some(start) = source.seek(at, true)?.filter(|start| *start < size) else {
                break;
            };
            let start = start / PAGE * PAGE;
            let hole = source.seek(start.max(at), false)?.unwrap_or(size);
            let stop = hole.next_multiple_of(PAGE).min(size).min(start + STEP);
            let before = file.counted();
            let extents = &self.shared.extents;
            file.bring_up(extents, start..stop, |extent| {
                extent.copy_from(source.fd(), start..stop, 0)
            })?;
            self.count(file.counted() - before)?;
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Errno::EINTR);
            }
            at = stop;
        }
        Ok(file)
    }
}

/// Why an object was not taken.
struct Unread(Errno);

/// Returns whether an error is about the store and not about one object of the host.
fn is_of_store(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EINTR | Errno::EDQUOT)
}
