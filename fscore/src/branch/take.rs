//! Taking the lower directory as it is: every object, with all its bytes, by several threads.
//!
//! The host may change the directory meanwhile. A file is taken in one version, which is looked at
//! before and after. A name may be missed in a directory that is listed while names move, and an object
//! that moves from a directory that is to be taken to one that was taken. So all directories are looked
//! at in the end, and those that have changed are taken again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::freeze::{FreezeError, FreezeProgress, Freezing};
use crate::lower::Lower;
use crate::lower::taking::{TakingDir, TakingFile};
use crate::model::attr::Nanos;
use crate::model::errno::{Errno, Result};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::model::names::Names;
use crate::model::stamp::Stamp;
use crate::store::content::{File, PAGE};
use crate::store::inode::{Body, Inode};
use crate::store::tree::bring_up::next_range;
use crate::store::tree::{Base, Shared, TakenDir, TakenObject, Tree};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// How often an object is looked at again that the host changes while it is taken.
const ATTEMPTS: u64 = 100;
/// So many bytes that were copied in vain count as one more attempt.
const ATTEMPT: u64 = 16 << 20;
/// How often directories are looked at again that the host changes meanwhile. It suffices that no
/// object is missed which stays where it is between two of these looks.
const ROUNDS: usize = 8;
/// How many threads copy, if the machine has so many processors.
const MOST_THREADS: usize = 8;
/// How many objects are listed that cannot be taken.
const MOST_LISTED: usize = 20;
/// What was changed so shortly before it was taken may have been changed again, with the same time.
const TICK: Nanos = 50_000_000;

/// What was taken since the filesystem was opened.
#[derive(Debug, Default)]
pub(crate) struct TakingCounts {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl TakingCounts {
    pub(super) fn progress(&self) -> FreezeProgress {
        FreezeProgress {
            files: self.files.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// The work of taking a lower directory.
pub(super) struct Taking<'a> {
    shared: &'a Arc<Shared>,
    counts: &'a TakingCounts,
    lower: &'a Lower,
    /// The last base, whose objects are shared where the host has not changed them.
    former: Option<&'a Base>,
    freezing: Freezing<'a>,
    pages: AtomicU64,
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
    /// With the version that the host had.
    objects: HashMap<NodeId, (Stamp, Arc<Inode>)>,
    dirs: HashMap<NodeId, Listed>,
    /// Directories that cannot be read.
    closed: HashMap<NodeId, (PathBuf, Errno)>,
    /// Files with several names that a thread copies by one of them.
    at_work: HashSet<NodeId>,
}

/// A directory that was taken.
#[derive(Debug)]
struct Listed {
    dir: TakenDir,
    /// The version that the host had before the directory was listed.
    version: Stamp,
    /// What in it cannot be read.
    unread: Vec<(PathBuf, Errno)>,
}

impl<'a> Taking<'a> {
    pub(super) fn new(
        (shared, counts): (&'a Arc<Shared>, &'a TakingCounts),
        lower: &'a Lower,
        former: Option<&'a Base>,
        freezing: Freezing<'a>,
    ) -> Self {
        Self {
            shared,
            counts,
            lower,
            former,
            freezing,
            pages: AtomicU64::new(0),
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
        for _ in 0..ROUNDS {
            self.work_all();
            if self.queue.lock().failed.is_some() || !self.has_changed() {
                break;
            }
        }
        if let Some(errno) = self.queue.into_inner().failed {
            return Err(match errno {
                Errno::EINTR => FreezeError::Cancelled,
                errno => FreezeError::Store(errno),
            });
        }
        let taken = self.taken.into_inner();
        let unread = taken.unread();
        if !unread.is_empty() {
            return Err(FreezeError::Unread(unread));
        }
        let former = self.former.map(|base| &base.tree);
        let objects = taken.objects.into_iter();
        let objects = objects.map(|(node, (_, inode))| TakenObject { node, inode });
        let dirs = taken.dirs.into_values().map(|listed| listed.dir);
        let (objects, dirs) = (objects.collect(), dirs.collect());
        Ok(Tree::of_taken(self.shared.clone(), former, objects, dirs))
    }

    /// Takes all directories that are in the queue, and those below them.
    fn work_all(&self) {
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

    /// Puts the directories into the queue that the host has changed since they were taken. Returns
    /// whether there are any.
    fn has_changed(&self) -> bool {
        let mut taken = self.taken.lock();
        let (mut again, mut lost) = (HashSet::new(), Vec::new());
        for (node, listed) in &taken.dirs {
            match self.lower.dir_version(*node) {
                Ok(Some(version)) if version == listed.version => {}
                Ok(Some(_)) => drop(again.insert(*node)),
                // It is gone, or lies elsewhere, where it is found again.
                Ok(None) | Err(_) => lost.push(*node),
            }
        }
        for node in &lost {
            taken.dirs.remove(node);
        }
        let lacks_some = |listed: &&Listed| listed.dir.entries.iter().any(|it| taken.lacks(it));
        let lacking = taken.dirs.values().filter(lacks_some);
        again.extend(lacking.map(|listed| listed.dir.node));
        if taken.dirs.is_empty() {
            again.insert(NodeId::ROOT);
        }
        let mut queue = self.queue.lock();
        queue.known.retain(|node| {
            let is_taken = taken.dirs.contains_key(node) || taken.closed.contains_key(node);
            is_taken || again.contains(node)
        });
        queue.dirs.extend(again);
        !queue.dirs.is_empty()
    }

    /// Takes a directory with what is in it, but for the directories below, which come into the
    /// queue.
    fn dir(&self, node: NodeId) -> Result<()> {
        let opened = match self.lower.take_dir(node) {
            Ok(Some(opened)) => opened,
            // The host has removed or moved it meanwhile.
            Ok(None) | Err(Errno::ESTALE) => return Ok(()),
            Err(errno) => {
                let path = self.lower.path_of(node);
                let path = path_of(path.as_deref().unwrap_or_default(), b"");
                self.taken.lock().closed.insert(node, (path, errno));
                return Ok(());
            }
        };
        let looked = opened.version().and_then(|version| {
            let inode = opened.inode()?;
            Ok((version, inode, opened.names()?))
        });
        let (version, inode, names) = match looked {
            Ok(looked) => looked,
            Err(Errno::ESTALE) => return Ok(()),
            Err(errno) => {
                let path = path_of(opened.path(), b"");
                self.taken.lock().closed.insert(node, (path, errno));
                return Ok(());
            }
        };
        let inode = Inode {
            xattrs: opened.xattrs(),
            names: Names::None,
            ..inode.into()
        };
        let (mut entries, mut unread) = (Vec::with_capacity(names.len()), Vec::new());
        for name in names {
            if self.freezing.cancelled.load(Ordering::Relaxed) {
                return Err(Errno::EINTR);
            }
            match self.object(&opened, &name) {
                Ok(Some((child, kind))) => entries.push((name, child, kind)),
                Ok(None) => {}
                Err(Unread(errno)) if is_of_store(errno) => return Err(errno),
                Err(Unread(errno)) if unread.len() < MOST_LISTED => {
                    unread.push((path_of(opened.path(), &name), errno));
                }
                Err(Unread(_)) => {}
            }
        }
        self.add_dirs(&entries);
        let listed = Listed {
            dir: TakenDir {
                node,
                inode,
                entries,
            },
            version,
            unread,
        };
        let mut taken = self.taken.lock();
        taken.dirs.insert(node, listed);
        match taken.count() > self.shared.config.limits.nodes {
            true => Err(Errno::ENOSPC),
            false => Ok(()),
        }
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

    /// Takes what has a name; `None` when the host no longer has the name, or it is left out.
    fn object(
        &self,
        dir: &TakingDir<'_>,
        name: &Name,
    ) -> Result<Option<(NodeId, ObjectKind)>, Unread> {
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            attempts += 1;
            let looked = match dir.look(name) {
                Err(Errno::ESTALE) => continue,
                looked => looked.map_err(Unread)?,
            };
            let Some((found, host)) = looked else {
                return Ok(None);
            };
            let is_dir = found.kind.is_dir();
            if self.freezing.exclude.matches(dir.path(), name, is_dir) {
                return Ok(None);
            }
            let there = Some((found.node, found.kind));
            let inode = Inode::from(host);
            if is_dir || !self.taken.lock().begin(found.node, &inode) {
                return Ok(there);
            }
            let size = inode.stamp().size;
            match self.taken(dir, name, found.node, inode) {
                Ok(()) => return Ok(there),
                Err(Errno::ESTALE) => attempts += size / ATTEMPT,
                Err(errno) => return Err(Unread(errno)),
            }
        }
        Err(Unread(Errno::EBUSY))
    }

    /// Takes an object that was just looked at, with its bytes.
    fn taken(&self, dir: &TakingDir<'_>, name: &Name, node: NodeId, inode: Inode) -> Result<()> {
        let version = inode.stamp();
        let made = self.with_bytes(dir, name, (node, version), inode);
        let mut taken = self.taken.lock();
        taken.at_work.remove(&node);
        let old = taken.objects.insert(node, (version, made?));
        let old = old.as_ref().and_then(|(_, inode)| inode.as_file());
        self.pages
            .fetch_sub(old.map_or(0, File::counted), Ordering::Relaxed);
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn with_bytes(
        &self,
        dir: &TakingDir<'_>,
        name: &Name,
        (node, version): (NodeId, Stamp),
        mut inode: Inode,
    ) -> Result<Arc<Inode>> {
        inode.names = Names::None;
        let Body::File(_) = &inode.body else {
            return Ok(Arc::new(inode));
        };
        if let Some(same) = self.same_in_former(node, &inode) {
            self.count(same.as_file().map_or(0, File::counted))?;
            return Ok(same);
        }
        let source = dir.open(name, version)?;
        inode.xattrs = source.xattrs();
        let file = self.copy(&source, version.size)?;
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
        let is_same =
            is_settled && version == inode.stamp() && attributes(old) == attributes(inode);
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
        let copied = self.copy_into(&mut file, source, size);
        if copied.is_err() {
            self.pages.fetch_sub(file.counted(), Ordering::Relaxed);
        }
        copied.map(|()| file)
    }

    fn copy_into(&self, file: &mut File, source: &TakingFile, size: u64) -> Result<()> {
        let seek = |at, data| source.seek(at, data);
        let mut at = 0;
        while let Some(range) = next_range(&seek, at, size)? {
            let before = file.counted();
            let extents = &self.shared.extents;
            let len = file.bring_up(extents, range.clone(), |extent| {
                extent.copy_from(source.fd(), range.clone(), 0)
            })?;
            self.counts.bytes.fetch_add(len, Ordering::Relaxed);
            self.count(file.counted() - before)?;
            if self.freezing.cancelled.load(Ordering::Relaxed) {
                return Err(Errno::EINTR);
            }
            at = range.end;
        }
        source.require_version()
    }
}

impl Taken {
    /// Returns whether an object that was just looked at is to be taken now: it was not taken in this
    /// version, and no other thread takes it.
    fn begin(&mut self, node: NodeId, inode: &Inode) -> bool {
        let is_same = |(version, old): &(Stamp, Arc<Inode>)| {
            let is_file = inode.as_file().is_some();
            is_file && *version == inode.stamp() && attributes(old) == attributes(inode)
        };
        !self.objects.get(&node).is_some_and(is_same)
            && (inode.nlink < 2 || self.at_work.insert(node))
    }

    /// Returns whether what an entry leads to was not taken.
    fn lacks(&self, (_, node, kind): &(Name, NodeId, ObjectKind)) -> bool {
        match kind.is_dir() {
            true => !self.dirs.contains_key(node) && !self.closed.contains_key(node),
            false => !self.objects.contains_key(node),
        }
    }

    fn count(&self) -> u64 {
        (self.objects.len() + self.dirs.len()) as u64
    }

    /// Returns the first objects, by their paths, that cannot be read.
    fn unread(&self) -> Vec<(PathBuf, Errno)> {
        let entries = self.dirs.values().flat_map(|listed| &listed.dir.entries);
        let closed = entries.filter_map(|(_, node, _)| self.closed.get(node));
        let unread = self.dirs.values().flat_map(|listed| &listed.unread);
        let root = self.closed.get(&NodeId::ROOT);
        let mut all: Vec<_> = closed.chain(unread).chain(root).cloned().collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all.truncate(MOST_LISTED);
        all
    }
}

/// Why an object was not taken.
struct Unread(Errno);

/// Returns what belongs to the version of a file beside its stamp.
fn attributes(inode: &Inode) -> (u32, u32, u32, u32) {
    (inode.mode, inode.uid, inode.gid, inode.nlink)
}

fn path_of(dir: &[u8], name: &[u8]) -> PathBuf {
    let parts = [dir, name].into_iter().filter(|it| !it.is_empty());
    parts
        .map(|it| std::ffi::OsString::from_vec(it.to_vec()))
        .collect()
}

/// Returns whether an error is about the store and not about one object of the host.
fn is_of_store(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EINTR | Errno::EDQUOT)
}
