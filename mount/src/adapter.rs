//! One branch as a FUSE filesystem: what its requests have in common.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentfs_core::event::Origin;
use agentfs_core::id::NodeId;
use agentfs_core::{Attr, Branch, Caller, CaseSensitivity, HandleId, Shown};
use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    ReplyAttr, ReplyCreate, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
    WriteFlags,
};

use crate::adopted_handles::AdoptedHandles;
use crate::convert::{errno, file_attr};
use crate::cpu_affinity::follow_cpu;
use crate::echo::Echo;
use crate::kept::{Negotiated, SavedMount};
use crate::kernel_cache::page_versions::is_settled;
use crate::kernel_cache::{KernelCache, Mark};
use crate::open_files::OpenFiles;
use crate::readdir_cache::ReaddirCache;
use crate::reply::{node, reply_empty};
use crate::retries::Retries;

/// NodeIds are never reused, so one generation is enough.
pub(crate) const GENERATION: Generation = Generation(0);
/// For answers whose changes FsCore emits: they are invalidated then.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 60 * 60);
/// For answers that the host may outdate without an event, and for those that the kernel applies
/// without looking whether they are outdated (`fuse_do_setattr`).
pub(crate) const NEVER: Duration = Duration::ZERO;
/// The largest read and write: what Linux allows without privileges (`fs.fuse.max_pages_limit`).
const MAX_TRANSFER: u32 = 1 << 20;
/// Read-ahead and such requests in flight.
const MAX_BACKGROUND: u16 = 64;

/// What the kernel is asked to do, where it can.
const CAPABILITIES: [InitFlags; 10] = [
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // FsCore takes setuid and setgid away as the kernel would. Without this every write would be
    // preceded by a question for `security.capability`.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_EXPORT_SUPPORT,
    InitFlags::FUSE_ASYNC_DIO,
    // So that another server can take the mount over.
    InitFlags::FUSE_HAS_RESEND,
];

thread_local! {
    /// Holds what is read, on its way to the kernel. It is kept, because zeroing a new one costs more
    /// than the read.
    pub(crate) static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) branch: Branch,
    pub(crate) cache: Arc<KernelCache>,
    pub(crate) echo: Arc<Echo>,
    pub(crate) open_files: Arc<OpenFiles>,
    pub(crate) handles: AdoptedHandles,
    /// Set when the kernel says what it can.
    pub(crate) negotiated: Arc<OnceLock<Negotiated>>,
    pub(crate) readdir_cache: ReaddirCache,
    pub(crate) retries: Retries,
    no_groups: Arc<[u32]>,
    /// Whether the kernel opens directories without a request, by our answer. It keeps all listings
    /// then.
    keeps_listings: AtomicBool,
    /// How long the kernel may remember names.
    pub(crate) entry_lifetime: Duration,
    /// The group that all files are shown to have, if the mount's namespace knows only one.
    pub(crate) group: Option<u32>,
}

/// Delivers to the event sinks when a request is answered: see [`Caller::behind_kernel`].
pub(crate) struct DeliverAfter<'a>(&'a Branch);

impl Drop for DeliverAfter<'_> {
    fn drop(&mut self) {
        self.0.deliver();
    }
}

impl Adapter {
    pub(crate) fn new(
        branch: Branch,
        case: CaseSensitivity,
        cache: Arc<KernelCache>,
        echo: Arc<Echo>,
    ) -> Self {
        Self {
            branch,
            cache,
            echo,
            open_files: Arc::default(),
            handles: AdoptedHandles::default(),
            negotiated: Arc::default(),
            readdir_cache: ReaddirCache::default(),
            retries: Retries::default(),
            no_groups: Arc::from([]),
            keeps_listings: AtomicBool::new(false),
            entry_lifetime: match case {
                CaseSensitivity::Sensitive => LONG,
                // The kernel would remember every spelling by itself and forget only one.
                CaseSensitivity::InsensitivePreserving => NEVER,
            },
            group: None,
        }
    }

    /// Forgets an object without a name when the kernel has forgotten it, if a handle of an earlier server may
    /// have held it.
    pub(crate) fn forget_nameless(&self, node: NodeId) {
        if self.cache.is_taken_over()
            && let Err(error) = self.branch.drop_nameless(node)
        {
            tracing::warn!(%error, "a removed file goes on to take space");
        }
    }

    /// Makes it go on where earlier servers of the mount ended.
    pub(crate) fn go_on(&mut self, saved: &SavedMount) {
        self.group = saved.group;
        self.handles = AdoptedHandles::new(saved.generation);
        self.negotiated(saved.negotiated);
        // The kernel may not ask when it opens a directory.
        self.keeps_listings.store(true, Ordering::Relaxed);
    }

    pub(crate) fn negotiated(&self, agreed: Negotiated) {
        // Called once, when the session is made.
        self.negotiated.get_or_init(|| agreed);
    }

    /// Returns attributes as the kernel is to see them.
    pub(crate) fn shown(&self, attr: &Attr) -> FileAttr {
        let mut shown = file_attr(attr);
        shown.gid = self.group.unwrap_or(shown.gid);
        shown
    }

    pub(crate) fn caller(&self, request: &Request) -> Caller {
        follow_cpu(request.pid());
        Caller {
            uid: request.uid(),
            gid: request.gid(),
            groups: self.no_groups.clone(),
            umask: 0,
            pid: request.pid(),
            origin: Origin::Mount(self.cache.mount()),
            behind_kernel: true,
        }
    }

    pub(crate) fn deliver_after(&self) -> DeliverAfter<'_> {
        DeliverAfter(&self.branch)
    }

    /// Returns how long names of a directory may be remembered, by what [`Branch::tells_names`] returned
    /// before they were looked up.
    pub(crate) fn name_lifetime(&self, is_told: bool) -> Duration {
        if is_told { self.entry_lifetime } else { NEVER }
    }

    pub(crate) fn reply_entry(
        &self,
        mark: Mark,
        parent: INodeNo,
        name_lifetime: Duration,
        found: agentfs_core::Result<Shown>,
        reply: ReplyEntry,
    ) {
        match found {
            Ok(shown) => {
                let shown = self.cache.admit(mark, &self.branch, node(parent), shown);
                let (attr, lifetime) = (self.shown(&shown.attr), lifetime(&shown));
                // A directory is reached by its name: a program that lists it finds out that it was
                // changed.
                let name_lifetime = if shown.attr.kind.is_dir() {
                    name_lifetime.min(lifetime)
                } else {
                    name_lifetime
                };
                reply.entry_with_ttls(&lifetime, &name_lifetime, &attr, GENERATION);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    pub(crate) fn reply_attr(
        &self,
        found: agentfs_core::Result<Attr>,
        lifetime: &Duration,
        reply: ReplyAttr,
    ) {
        match found {
            Ok(attr) => reply.attr(lifetime, &self.shown(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    pub(crate) fn reply_shown(&self, shown: &Shown, reply: ReplyAttr) {
        self.cache.before_attributes_reply(shown);
        reply.attr(&lifetime(shown), &self.shown(&shown.attr));
    }

    /// Answers an open. The kernel keeps its pages if they are of the version that was opened.
    pub(crate) fn reply_open(&self, inode: INodeNo, handle: HandleId, reply: ReplyOpen) {
        self.open_files.add(handle);
        let version = self.branch.version_opened(handle);
        let opening = self.cache.opened(node(inode), handle, version);
        if opening.is_outdated && version.is_some() {
            self.cache.forget_attributes(node(inode));
        }
        reply.opened(self.handles.number(handle), opening.flags());
    }

    /// Answers a create, which makes or opens a file by its name. The name that the kernel believed
    /// to be free may be the host's by now.
    pub(crate) fn reply_create(
        &self,
        mark: Mark,
        parent: INodeNo,
        (handle, attr): (HandleId, Attr),
        reply: ReplyCreate,
    ) {
        self.open_files.add(handle);
        let version = self.branch.version_opened(handle);
        let shown = match version.map(|_| self.branch.show_node(attr.node)) {
            Some(Ok(shown)) => shown,
            Some(Err(_)) | None => Shown::own(attr),
        };
        let shown = self.cache.admit(mark, &self.branch, node(parent), shown);
        let opening = self.cache.opened(attr.node, handle, version);
        reply.created(
            &self.entry_lifetime.min(lifetime(&shown)),
            &self.shown(&shown.attr),
            GENERATION,
            self.handles.number(handle),
            opening.flags(),
        );
    }

    /// Answers the opening of a directory. Where FsCore emits all changes, the kernel opens directories
    /// without asking from then on, and keeps what it has listed; where not, it keeps nothing.
    pub(crate) fn reply_opendir(&self, inode: INodeNo, reply: ReplyOpen) {
        if self.branch.tells_all() {
            self.keeps_listings.store(true, Ordering::Relaxed);
            return reply.error(Errno::ENOSYS);
        }
        let flags = if self.branch.tells_names(node(inode)) {
            FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR
        } else {
            FopenFlags::empty()
        };
        reply.opened(FileHandle(0), flags);
    }

    /// Drops the listing that the kernel keeps of a directory whose changes are not emitted, as of one
    /// that came to be when no more could be watched. Called when the kernel has its answer. It is done
    /// in a thread of its own, because it waits for all that read the directory.
    pub(crate) fn listed(&self, inode: INodeNo, is_told: bool) {
        if is_told || !self.keeps_listings.load(Ordering::Relaxed) {
            return;
        }
        let (cache, node) = (Arc::clone(&self.cache), node(inode));
        let started = std::thread::Builder::new()
            .name("agentfs-listing".to_owned())
            .spawn(move || {
                cache.wait_for(node);
                cache.drop_content(node);
            });
        if let Err(error) = started {
            tracing::warn!(%error, "a listing stays that may become outdated");
        }
    }

    /// Carries out an operation that changes something, and answers whether it succeeded.
    pub(crate) fn carry_out(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        operation: impl FnOnce(&Caller) -> agentfs_core::Result<()>,
    ) {
        let _delivery = self.deliver_after();
        reply_empty(operation(&self.caller(request)), reply);
    }

    /// Carries out an operation that makes a name in `parent`, and answers with its object.
    pub(crate) fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        reply: ReplyEntry,
        operation: impl FnOnce(&Caller) -> agentfs_core::Result<Attr>,
    ) {
        if self.echo.is_own(request.pid()) {
            return self.echo_made(parent, reply);
        }
        let _delivery = self.deliver_after();
        let mark = self.cache.mark();
        let made = operation(&self.caller(request)).map(Shown::own);
        self.reply_entry(mark, parent, self.entry_lifetime, made, reply);
    }

    /// Carries out an operation that takes a name away from the object that has it.
    pub(crate) fn take_name(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        reply: ReplyEmpty,
        operation: impl FnOnce(&Caller) -> agentfs_core::Result<()>,
    ) {
        if self.echo.is_own(request.pid()) {
            return reply.ok();
        }
        self.carry_out(request, reply, |caller| {
            let seen = self.before_removal(caller, parent, name);
            let result = operation(caller);
            self.keep_orphan(seen.filter(|_| result.is_ok()));
            result
        });
    }

    /// Returns the attributes of the object that the name leads to, if taking the name away would be
    /// its end.
    fn before_removal(&self, caller: &Caller, parent: INodeNo, name: &OsStr) -> Option<Attr> {
        let attr = self
            .branch
            .lookup(caller, node(parent), name.as_bytes())
            .ok()?;
        (attr.nlink == 1 || attr.kind.is_dir()).then_some(attr)
    }

    fn keep_orphan(&self, seen: Option<Attr>) {
        if let Some(attr) = seen
            && self.branch.getattr(attr.node).is_err()
        {
            self.cache.keep_orphan(&attr);
        }
    }

    /// Returns whether the end of a file, at which the kernel appended, was not where the kernel believed
    /// it to be, so that its pages have to be dropped when it has its answer. Called before: the program
    /// may append again as soon as it has its answer.
    pub(crate) fn is_misplaced(
        &self,
        handle: HandleId,
        offset: u64,
        written: agentfs_core::Result<usize>,
        was_current: bool,
    ) -> bool {
        match (written, self.branch.fstat(handle)) {
            (Ok(written), Ok(attr)) => attr.size != offset + written as u64 || !was_current,
            _ => false,
        }
    }

    /// Writes the data of a request; returns also whether the kernel's pages were of the version that
    /// is written to.
    pub(crate) fn write_data(
        &self,
        caller: &Caller,
        (file, handle): (INodeNo, HandleId),
        (offset, data): (u64, &[u8]),
        (appends, write_flags): (bool, WriteFlags),
    ) -> (agentfs_core::Result<usize>, bool) {
        let is_from_cache = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let is_current = !(appends || is_from_cache) || self.has_current_pages(file);
        let written = match (is_from_cache, is_current) {
            // Whole pages, with bytes of the older version around those that were changed.
            (true, false) => Err(agentfs_core::Errno::ESTALE),
            (true, true) if appends => self.write_back(caller, file, offset, data),
            _ => self.branch.write_at(caller, handle, offset, data),
        };
        (written, is_current)
    }

    /// Returns whether the kernel's pages are of the version that the branch shows.
    fn has_current_pages(&self, file: INodeNo) -> bool {
        let Some(held) = self.cache.version_of_pages(node(file)) else {
            return true;
        };
        let shown = self.branch.show_node(node(file));
        shown.is_ok_and(|shown| shown.version.is_none_or(|version| version == held))
    }

    /// Writes what comes from the page cache, with a handle of its own: the request names some handle
    /// of the file that can write, and if that one appends, this write must not.
    pub(crate) fn write_back(
        &self,
        caller: &Caller,
        file: INodeNo,
        offset: u64,
        data: &[u8],
    ) -> agentfs_core::Result<usize> {
        let flags = agentfs_core::OpenFlags::WRITE_ONLY;
        let handle = self.branch.open_node(caller, node(file), flags)?;
        let written = self.branch.write_at(caller, handle, offset, data);
        self.branch.close(caller, handle)?;
        written
    }
}

impl Adapter {
    /// Adds one entry of readdirplus; returns whether there was no room for it. The dots are no lookups.
    pub(crate) fn add_with_attributes(
        &self,
        parent: INodeNo,
        name_lifetime: Duration,
        entry: &agentfs_core::DirEntry,
        reply: &mut ReplyDirectoryPlus,
    ) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        let mark = self.cache.mark();
        let shown = self.branch.show_node(entry.node).or_else(|_| {
            // The host has put another object in its place since it was listed.
            self.branch.show(&Caller::root(), node(parent), &entry.name)
        });
        // Removed since it was listed.
        let Ok(shown) = shown else {
            return false;
        };
        let inode = INodeNo(shown.attr.node.0);
        if matches!(&*entry.name, b"." | b"..") {
            let attr = self.shown(&shown.attr);
            return reply.add(inode, entry.cookie, name, &NEVER, &attr, GENERATION);
        }
        let shown = self.cache.admit(mark, &self.branch, node(parent), shown);
        let attr = self.shown(&shown.attr);
        let lifetime = name_lifetime.min(listed_lifetime(&shown));
        let full = reply.add(inode, entry.cookie, name, &lifetime, &attr, GENERATION);
        if full {
            self.cache.forget(shown.attr.node, 1);
        }
        full
    }
}

/// Returns how long attributes may be remembered.
fn lifetime(shown: &Shown) -> Duration {
    if shown.is_told { LONG } else { NEVER }
}

/// Returns how long attributes that are listed may be remembered: not at all for a file that the host
/// has just changed.
///
/// Such a file may still be written beside its place. If a program then looks it up in its place
/// while the listing's answer is on its way, the kernel takes in what comes first, and throws the other
/// answer away (`fs/fuse/inode.c: fuse_change_attributes_i`). Until the event comes, the file would
/// have the size that it had when it was listed.
fn listed_lifetime(shown: &Shown) -> Duration {
    if shown.version.as_ref().is_none_or(is_settled) {
        lifetime(shown)
    } else {
        NEVER
    }
}

/// Asks the kernel for what makes a mount fast and lets it outlive its server; returns what it agrees to.
pub(crate) fn ask_kernel(config: &mut KernelConfig) -> Negotiated {
    let mut agreed = InitFlags::empty();
    for capability in CAPABILITIES {
        match config.add_capabilities(capability) {
            Ok(()) => agreed |= capability,
            Err(_) => tracing::debug!(?capability, "the kernel cannot do this"),
        }
    }
    // Both are within what fuser allows; a smaller limit of the kernel wins.
    if config.set_max_write(MAX_TRANSFER).is_err() {
        tracing::debug!("the largest write stays as it is");
    }
    if config.set_max_background(MAX_BACKGROUND).is_err() {
        tracing::debug!("the number of background requests stays as it is");
    }
    Negotiated {
        minor: config.kernel_abi().1,
        max_write: MAX_TRANSFER,
        flags: agreed.bits(),
    }
}
