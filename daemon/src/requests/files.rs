//! Filesystem requests: each is one operation of FsCore, on behalf of the connected process.

use std::collections::HashMap;

use agentfs_core::id::{BranchId, NodeId};
use agentfs_core::{
    Attr, Branch, Caller, Errno, HandleId, OpenFlags, Pass, RenameFlags, SetTime, XattrFlags,
};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{
    self, Code, Entry, FsData, FsDone, FsEntries, FsGetXattr, FsLinkTarget, FsListXattr, FsOp,
    FsOpen, FsOpened, FsRead, FsReadDir, FsReadLink, FsReply, FsStat, FsWrite, FsWritten, FsXattr,
    FsXattrs, MAX_DATA, open_flags,
};

use crate::base::refusal::Refusal;

/// Entries on one page of a directory: with the longest names they fit a frame.
const ENTRIES_PER_PAGE: usize = 128;

/// The files that a session has open.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: HashMap<u64, (Branch, HandleId)>,
    last: u64,
}

impl Handles {
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    fn insert(&mut self, branch: Branch, handle: HandleId) -> u64 {
        self.last += 1;
        self.open.insert(self.last, (branch, handle));
        self.last
    }

    fn get(&self, handle: u64) -> Result<(&Branch, HandleId), Refusal> {
        let (branch, id) = self.open.get(&handle).ok_or_else(|| no_handle(handle))?;
        Ok((branch, *id))
    }

    /// Returns the branches of the open files, each as often as it has one.
    pub(crate) fn branches(&self) -> impl Iterator<Item = BranchId> {
        self.open.values().map(|(branch, _)| branch.id())
    }

    pub(crate) fn close_all(&mut self, caller: &Caller) {
        for (_, (branch, handle)) in self.open.drain() {
            if let Err(errno) = branch.close(caller, handle) {
                tracing::debug!(%errno, "a file of an ended session was closed already");
            }
        }
    }
}

fn no_handle(handle: u64) -> Refusal {
    Refusal::new(
        Code::NOT_FOUND,
        format!("the session has no open file {handle}"),
    )
}

/// The files of one session in one branch.
#[derive(Debug)]
pub(crate) struct Files<'a> {
    pub(crate) branch: Branch,
    pub(crate) caller: &'a Caller,
    pub(crate) handles: &'a mut Handles,
    pub(crate) max_handles: usize,
}

impl Files<'_> {
    /// Carries out one operation.
    pub(crate) fn answer(&mut self, op: FsOp) -> Result<FsReply, Refusal> {
        match op {
            FsOp::Open(it) => Ok(self.open(&it)?.into()),
            FsOp::Close(it) => Ok(self.close(it.handle)?.into()),
            FsOp::Read(it) => Ok(self.read(&it)?.into()),
            FsOp::Write(it) => Ok(self.write(&it)?.into()),
            FsOp::ReadDir(it) => {
                let mut listing = Listing::default();
                Ok(read_dir(&self.branch, self.caller, &it, &mut listing)?.into())
            }
            FsOp::Stat(it) => Ok(self.stat(&it)?.into()),
            FsOp::ReadLink(it) => Ok(self.read_link(&it)?.into()),
            FsOp::GetXattr(it) => Ok(self.get_xattr(&it)?.into()),
            FsOp::ListXattr(it) => Ok(self.list_xattr(&it)?.into()),
            FsOp::Mkdir(it) => done(self.branch.mkdir(
                self.caller,
                it.path.as_path(),
                it.mode & 0o7777,
            )?),
            FsOp::Mknod(it) => {
                done(
                    self.branch
                        .mknod(self.caller, it.path.as_path(), it.mode, it.rdev)?,
                )
            }
            FsOp::Symlink(it) => {
                let (target, path) = (it.target.as_path(), it.path.as_path());
                done(self.branch.symlink(self.caller, target, path)?)
            }
            FsOp::Link(it) => done(self.branch.link(
                self.caller,
                it.from.as_path(),
                it.to.as_path(),
            )?),
            FsOp::Unlink(it) => nothing(self.branch.unlink(self.caller, it.path.as_path())?),
            FsOp::Rmdir(it) => nothing(self.branch.rmdir(self.caller, it.path.as_path())?),
            FsOp::Rename(it) => {
                let (from, to) = (it.from.as_path(), it.to.as_path());
                let flags = RenameFlags::from_bits(it.flags);
                nothing(self.branch.rename(self.caller, from, to, flags)?)
            }
            op @ (FsOp::Truncate(_)
            | FsOp::Chmod(_)
            | FsOp::Chown(_)
            | FsOp::Utimens(_)
            | FsOp::SetXattr(_)
            | FsOp::RemoveXattr(_)) => nothing(self.change_attributes(&op)?),
        }
    }

    /// Carries out an operation on an object's attributes.
    fn change_attributes(&self, op: &FsOp) -> Result<(), Errno> {
        let (branch, caller) = (&self.branch, self.caller);
        if let FsOp::Truncate(it) = op {
            branch.truncate(caller, it.path.as_path(), it.size)?;
        }
        if let FsOp::Chmod(it) = op {
            branch.chmod(caller, it.path.as_path(), it.mode & 0o7777)?;
        }
        if let FsOp::Chown(it) = op {
            let set = |id: u32| (id != u32::MAX).then_some(id);
            branch.chown(
                caller,
                it.path.as_path(),
                it.follow,
                set(it.uid),
                set(it.gid),
            )?;
        }
        if let FsOp::Utimens(it) = op {
            let (atime, mtime) = (it.atime_ns.map(SetTime::To), it.mtime_ns.map(SetTime::To));
            branch.utimens(caller, it.path.as_path(), it.follow, atime, mtime)?;
        }
        if let FsOp::SetXattr(it) = op {
            let flags = XattrFlags::from_bits(it.flags);
            branch.setxattr(caller, it.path.as_path(), true, &it.name, &it.value, flags)?;
        }
        if let FsOp::RemoveXattr(it) = op {
            branch.removexattr(caller, it.path.as_path(), true, &it.name)?;
        }
        Ok(())
    }

    fn close(&mut self, handle: u64) -> Result<FsDone, Refusal> {
        let (branch, id) = self
            .handles
            .open
            .remove(&handle)
            .ok_or_else(|| no_handle(handle))?;
        branch.close(self.caller, id)?;
        Ok(FsDone { ino: 0 })
    }

    fn read(&self, request: &FsRead) -> Result<FsData, Refusal> {
        let (branch, handle) = self.handles.get(request.handle)?;
        let len = usize::try_from(request.len)
            .unwrap_or(MAX_DATA)
            .min(MAX_DATA);
        let mut data = vec![0; len];
        let got = branch.read_at(self.caller, handle, request.offset, &mut data)?;
        data.truncate(got);
        Ok(FsData { data: Bytes(data) })
    }

    fn write(&self, request: &FsWrite) -> Result<FsWritten, Refusal> {
        let (branch, handle) = self.handles.get(request.handle)?;
        let len = branch.write_at(self.caller, handle, request.offset, &request.data)?;
        Ok(FsWritten {
            len: u32::try_from(len).unwrap_or(u32::MAX),
        })
    }

    fn stat(&self, request: &FsStat) -> Result<message::Attr, Errno> {
        let path = request.path.as_path();
        let attr = if request.follow {
            self.branch.stat(self.caller, path)?
        } else {
            self.branch.lstat(self.caller, path)?
        };
        Ok(attr_of(&attr))
    }

    fn read_link(&self, request: &FsReadLink) -> Result<FsLinkTarget, Errno> {
        let target = self.branch.readlink(self.caller, request.path.as_path())?;
        Ok(FsLinkTarget {
            target: Bytes(target.to_vec()),
        })
    }

    fn get_xattr(&self, request: &FsGetXattr) -> Result<FsXattr, Errno> {
        let path = request.path.as_path();
        let value = self
            .branch
            .getxattr(self.caller, path, true, &request.name)?;
        Ok(FsXattr {
            value: Bytes(value.to_vec()),
        })
    }

    fn list_xattr(&self, request: &FsListXattr) -> Result<FsXattrs, Errno> {
        let names = self
            .branch
            .listxattr(self.caller, request.path.as_path(), true)?;
        Ok(FsXattrs {
            names: names
                .into_iter()
                .map(|name| Bytes(name.into_vec()))
                .collect(),
        })
    }

    fn open(&mut self, request: &FsOpen) -> Result<FsOpened, Refusal> {
        if self.handles.len() >= self.max_handles {
            let text = format!(
                "the session has its {} files open; close some",
                self.max_handles
            );
            return Err(Refusal::limit(text));
        }
        let flags = open_flags_of(request.flags)?;
        let path = request.path.as_path();
        let handle = self
            .branch
            .open(self.caller, path, flags, request.mode & 0o7777)?;
        let attr = self.branch.fstat(handle)?;
        let number = self.handles.insert(self.branch.clone(), handle);
        Ok(FsOpened {
            handle: number,
            attr: attr_of(&attr),
        })
    }
}

/// The listing that a session reads page by page, so that the host is not asked again for each page.
#[derive(Debug, Default)]
pub(crate) struct Listing(Option<(BranchId, NodeId, Pass)>);

/// Returns one page of a directory. The first one takes time in proportion to the directory, if it
/// is merged with the one below.
pub(crate) fn read_dir(
    branch: &Branch,
    caller: &Caller,
    request: &FsReadDir,
    listing: &mut Listing,
) -> Result<FsEntries, Errno> {
    let flags = OpenFlags::READ | OpenFlags::DIRECTORY;
    let handle = branch.open(caller, request.path.as_path(), flags, 0)?;
    let page = branch.fstat(handle).and_then(|attr| {
        let kept = listing
            .0
            .take()
            .filter(|(of, node, _)| request.after != 0 && (*of, *node) == (branch.id(), attr.node));
        let mut pass = kept.map(|(.., pass)| pass).unwrap_or_default();
        let after = request.after;
        let page = branch.readdir_in_pass(caller, handle, &mut pass, after, ENTRIES_PER_PAGE)?;
        if page.len() == ENTRIES_PER_PAGE {
            listing.0 = Some((branch.id(), attr.node, pass));
        }
        Ok(page)
    });
    branch.close(caller, handle)?;
    let page = page?;
    let more = page.len() == ENTRIES_PER_PAGE;
    let entries = page
        .into_iter()
        .filter(|entry| *entry.name != *b"." && *entry.name != *b"..")
        .filter_map(|entry| {
            // An entry that is removed meanwhile is left out.
            let attr = branch.getattr(entry.node).ok()?;
            let (name, cookie) = (Bytes(entry.name.to_vec()), entry.cookie);
            Some(Entry {
                name,
                cookie,
                attr: attr_of(&attr),
            })
        })
        .collect();
    Ok(FsEntries { entries, more })
}

fn done(attr: Attr) -> Result<FsReply, Refusal> {
    Ok(FsDone { ino: attr.node.0 }.into())
}

fn nothing((): ()) -> Result<FsReply, Refusal> {
    Ok(FsDone { ino: 0 }.into())
}

fn open_flags_of(bits: u32) -> Result<OpenFlags, Refusal> {
    let has = |bit| bits & bit != 0;
    let access = match (has(open_flags::READ), has(open_flags::WRITE)) {
        (true, true) => OpenFlags::READ_WRITE,
        (true, false) => OpenFlags::READ,
        (false, true) => OpenFlags::WRITE_ONLY,
        (false, false) => {
            return Err(Refusal::invalid(
                "a file is opened to read, to write, or both",
            ));
        }
    };
    let known = [
        (open_flags::CREATE, OpenFlags::CREATE),
        (open_flags::EXCLUSIVE, OpenFlags::EXCLUSIVE),
        (open_flags::TRUNCATE, OpenFlags::TRUNCATE),
        (open_flags::APPEND, OpenFlags::APPEND),
        (open_flags::NO_FOLLOW, OpenFlags::NOFOLLOW),
    ];
    Ok(known
        .into_iter()
        .filter(|(bit, _)| has(*bit))
        .fold(access, |flags, (_, flag)| flags | flag))
}

fn attr_of(attr: &Attr) -> message::Attr {
    message::Attr {
        ino: attr.node.0,
        mode: attr.st_mode(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        rdev: attr.rdev,
        atime_ns: attr.atime,
        mtime_ns: attr.mtime,
        ctime_ns: attr.ctime,
    }
}
