//! One branch as a FUSE filesystem: what its requests have in common.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::event::Origin;
use agentfs_core::{Attr, Branch, Caller, CaseSensitivity};
use fuser::{
    FileAttr, FileHandle, Generation, INodeNo, InitFlags, KernelConfig, ReplyAttr,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, Request,
};

use crate::answer::{answer_empty, handle, node};
use crate::convert::{errno, file_attr};
use crate::echo::Echo;
use crate::kernel_cache::{KernelCache, Mark};
use crate::listing::Readings;
use crate::near::follow;
use crate::opened::Opened;

/// NodeIds are never reused, so one generation is enough.
pub(crate) const GENERATION: Generation = Generation(0);
/// Everything that changes elsewhere is invalidated.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 60 * 60);
/// Answers that the kernel applies without looking whether they are outdated (`fuse_do_setattr`).
pub(crate) const NEVER: Duration = Duration::ZERO;
/// The largest read and write: what Linux allows without privileges (`fs.fuse.max_pages_limit`).
const MAX_TRANSFER: u32 = 1 << 20;
/// Read-ahead and such requests in flight.
const MAX_BACKGROUND: u16 = 64;

/// What is asked of the kernel, where it can.
const CAPABILITIES: [InitFlags; 9] = [
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
];

thread_local! {
    /// What is read, on its way to the kernel. Kept, because zeroing a new one costs more than the
    /// read.
    pub(crate) static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) branch: Branch,
    pub(crate) cache: Arc<KernelCache>,
    pub(crate) echo: Arc<Echo>,
    pub(crate) opened: Arc<Opened>,
    pub(crate) readings: Readings,
    no_groups: Arc<[u32]>,
    /// How long the kernel may remember names.
    pub(crate) entry_lifetime: Duration,
    /// The group that everything is shown to have, if there is but one.
    pub(crate) group: Option<u32>,
}

/// Tells the event sinks when a request is answered: see [`Caller::behind_kernel`].
pub(crate) struct TellAfter<'a>(&'a Branch);

impl Drop for TellAfter<'_> {
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
            opened: Arc::default(),
            readings: Readings::default(),
            no_groups: Arc::from([]),
            entry_lifetime: match case {
                CaseSensitivity::Sensitive => LONG,
                // The kernel would remember every spelling by itself and forget only one.
                CaseSensitivity::InsensitivePreserving => NEVER,
            },
            group: None,
        }
    }

    /// Attributes as the kernel is to see them.
    pub(crate) fn shown(&self, attr: &Attr) -> FileAttr {
        let mut shown = file_attr(attr);
        shown.gid = self.group.unwrap_or(shown.gid);
        shown
    }

    pub(crate) fn caller(&self, request: &Request) -> Caller {
        follow(request.pid());
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

    pub(crate) fn tell_after(&self) -> TellAfter<'_> {
        TellAfter(&self.branch)
    }

    pub(crate) fn answer_entry(
        &self,
        mark: Mark,
        parent: INodeNo,
        found: agentfs_core::Result<Attr>,
        reply: ReplyEntry,
    ) {
        match found {
            Ok(attr) => {
                let attr = self.cache.admit(mark, &self.branch, node(parent), attr);
                let attr = self.shown(&attr);
                reply.entry_with_ttls(&LONG, &self.entry_lifetime, &attr, GENERATION);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    pub(crate) fn answer_attr(
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

    /// Carries out what changes something, and answers whether it could.
    pub(crate) fn carry_out(
        &self,
        request: &Request,
        reply: ReplyEmpty,
        operation: impl FnOnce(&Caller) -> agentfs_core::Result<()>,
    ) {
        let _told = self.tell_after();
        answer_empty(operation(&self.caller(request)), reply);
    }

    /// Carries out what gives something a name in `parent`, and answers with what has it.
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
        let _told = self.tell_after();
        let mark = self.cache.mark();
        let made = operation(&self.caller(request));
        self.answer_entry(mark, parent, made, reply);
    }

    /// Carries out what takes a name away from whatever has it.
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
            let seen = self.last_sight(caller, parent, name);
            let result = operation(caller);
            self.keep_ghost(seen.filter(|_| result.is_ok()));
            result
        });
    }

    /// How an object is that the name leads to, if taking the name away would be its end.
    fn last_sight(&self, caller: &Caller, parent: INodeNo, name: &OsStr) -> Option<Attr> {
        let attr = self
            .branch
            .lookup(caller, node(parent), name.as_bytes())
            .ok()?;
        (attr.nlink == 1 || attr.kind.is_dir()).then_some(attr)
    }

    fn keep_ghost(&self, seen: Option<Attr>) {
        if let Some(attr) = seen
            && self.branch.getattr(attr.node).is_err()
        {
            self.cache.keep_ghost(&attr);
        }
    }

    /// The kernel appends where it believes the end is, and keeps the page. When the end was
    /// elsewhere, that page is wrong. Called when the kernel has its answer.
    pub(crate) fn forget_misplaced(
        &self,
        file: FileHandle,
        offset: u64,
        written: agentfs_core::Result<usize>,
    ) {
        if let (Ok(written), Ok(attr)) = (written, self.branch.fstat(handle(file)))
            && attr.size != offset + written as u64
        {
            self.cache.drop_content(attr.node);
        }
    }

    /// A write that comes from the page cache has some handle of the file that can write. If that
    /// one appends, the write must not.
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
    /// One entry of readdirplus; whether there was no room for it. The dots are no lookups.
    pub(crate) fn add_with_attributes(
        &self,
        parent: INodeNo,
        entry: &agentfs_core::DirEntry,
        reply: &mut ReplyDirectoryPlus,
    ) -> bool {
        let name = OsStr::from_bytes(&entry.name);
        let inode = INodeNo(entry.node.0);
        let mark = self.cache.mark();
        // Removed since it was listed.
        let Ok(attr) = self.branch.getattr(entry.node) else {
            return false;
        };
        if matches!(&*entry.name, b"." | b"..") {
            let attr = self.shown(&attr);
            return reply.add(inode, entry.cookie, name, &NEVER, &attr, GENERATION);
        }
        let attr = self.cache.admit(mark, &self.branch, node(parent), attr);
        let attr = self.shown(&attr);
        let lifetime = self.entry_lifetime;
        let full = reply.add(inode, entry.cookie, name, &lifetime, &attr, GENERATION);
        if full {
            self.cache.forget(entry.node, 1);
        }
        full
    }
}

/// Asks the kernel for what makes a mount fast.
pub(crate) fn ask_kernel(config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        if config.add_capabilities(capability).is_err() {
            tracing::debug!(?capability, "the kernel cannot do this");
        }
    }
    // Both are within what fuser allows; a smaller limit of the kernel wins.
    if config.set_max_write(MAX_TRANSFER).is_err() {
        tracing::debug!("the largest write stays as it is");
    }
    if config.set_max_background(MAX_BACKGROUND).is_err() {
        tracing::debug!("the number of background requests stays as it is");
    }
}
