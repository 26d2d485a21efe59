//! Requests that an earlier server of the mount may have carried out without answering them.
//!
//! The kernel sends a request again if its server ended before the answer, and marks it
//! ([`is_resent`]). It cannot know whether the change was made. Carried out twice, `mkdir` would fail with
//! `EEXIST`, and a line that is appended would be there two times.
//!
//! What tells the two cases apart is that the kernel locks the directory, or the file, from before its
//! own look until the answer, also while no server is there. It sends `MKDIR` only for a name that it found
//! free, and no other program can take that name through this mount until it has the answer. So if an
//! object that fits is there when the request comes again, the request itself has made it. The same is
//! true of a name that is no longer there when it is to be taken away, and of data at the end of a file.
//!
//! The locks are those of one mount. A change by another mount of the branch, by a control session or by the
//! host, between the first server's look and its death, can be taken for the request's own: then two
//! programs may both have made a directory. To exchange two names twice looks like doing it
//! once, so that is not recognised: such a request is carried out again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use agentfs_core::event::ObjectKind;
use agentfs_core::id::NodeId;
use agentfs_core::{Attr, Branch, Caller, Errno, HandleId, OpenFlags, RenameFlags, Result};
use fuser::{INodeNo, Request};

use crate::adapter::Adapter;
use crate::reply::node;

/// `FUSE_UNIQUE_RESEND`.
const RESENT: u64 = 1 << 63;

/// Returns whether an earlier server has read the request and not answered it.
pub(crate) fn is_resent(request: &Request) -> bool {
    request.unique().0 & RESENT != 0
}

impl Adapter {
    /// Passes on the result of an operation that makes a name, unless it failed because the earlier
    /// server had made it: then the object is returned. `fits` says whether the object is such a one.
    pub(crate) fn or_made(
        &self,
        request: &Request,
        at: (INodeNo, &OsStr),
        made: Result<Attr>,
        fits: impl FnOnce(&Attr) -> bool,
    ) -> Result<Attr> {
        let there = |error| match error {
            Errno::EEXIST if is_resent(request) => {
                let there = self.at_name(at).filter(fits);
                there.ok_or(error)
            }
            error => Err(error),
        };
        made.or_else(there)
    }

    /// Passes on the result of the creation of a file. One that the earlier server made is opened.
    pub(crate) fn or_created(
        &self,
        request: &Request,
        caller: &Caller,
        at: (INodeNo, &OsStr),
        flags: OpenFlags,
        created: Result<(HandleId, Attr)>,
    ) -> Result<(HandleId, Attr)> {
        let is_new =
            |it: &Attr| it.kind == ObjectKind::File && it.uid == request.uid() && it.size == 0;
        let error = match created {
            Err(Errno::EEXIST) if is_resent(request) => Errno::EEXIST,
            created => return created,
        };
        let attr = self.at_name(at).filter(is_new).ok_or(error)?;
        let flags = flags.without(OpenFlags::CREATE | OpenFlags::EXCLUSIVE);
        let handle = self.branch.open_node(caller, attr.node, flags)?;
        Ok((handle, attr))
    }

    /// Passes on the result of a rename, unless it failed because the earlier server had renamed.
    pub(crate) fn or_renamed(
        &self,
        request: &Request,
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
        renamed: Result<()>,
    ) -> Result<()> {
        let is_done = matches!(renamed, Err(Errno::ENOENT))
            && is_resent(request)
            && !flags.contains(RenameFlags::EXCHANGE)
            && self.at_name(to).is_some();
        if is_done { Ok(()) } else { renamed }
    }

    /// Returns whether the earlier server has appended the data of a request, which the kernel took to
    /// belong at `offset`.
    pub(crate) fn is_appended(
        &self,
        request: &Request,
        file: INodeNo,
        (offset, data): (u64, &[u8]),
    ) -> bool {
        is_resent(request) && has_bytes(&self.branch, node(file), offset, data).unwrap_or(false)
    }

    fn at_name(&self, (parent, name): (INodeNo, &OsStr)) -> Option<Attr> {
        let caller = Caller::root();
        let found = self.branch.lookup(&caller, node(parent), name.as_bytes());
        found.ok()
    }
}

/// Passes on the result of an operation that takes something away, unless it failed because the earlier
/// server had taken it away.
pub(crate) fn or_gone(request: &Request, gone: Errno, removed: Result<()>) -> Result<()> {
    if is_resent(request) && removed == Err(gone) {
        return Ok(());
    }
    removed
}

/// Returns whether a file has these bytes there.
fn has_bytes(branch: &Branch, file: NodeId, offset: u64, bytes: &[u8]) -> Result<bool> {
    let size = branch.getattr(file)?.size;
    if size < offset.saturating_add(bytes.len() as u64) {
        return Ok(false);
    }
    let caller = Caller {
        // The thread that answers delivers.
        behind_kernel: true,
        ..Caller::root()
    };
    let handle = branch.open_node(&caller, file, OpenFlags::READ)?;
    let mut there = vec![0; bytes.len()];
    let read = branch.read_at(&caller, handle, offset, &mut there);
    branch.close(&caller, handle)?;
    Ok(read? == bytes.len() && there == bytes)
}
