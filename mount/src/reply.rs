//! Converts numbers of the protocol to FsCore's, and results of FsCore to answers.

use agentfs_core::Seek;
use agentfs_core::id::NodeId;
use fuser::{Errno, INodeNo, OpenFlags, ReplyEmpty, ReplyWrite, ReplyXattr};

use crate::convert::errno;

pub(crate) fn node(number: INodeNo) -> NodeId {
    NodeId(number.0)
}

pub(crate) fn open_flags(flags: OpenFlags) -> agentfs_core::OpenFlags {
    agentfs_core::OpenFlags::from_bits(flags.0.cast_unsigned())
}

/// Returns what lseek searches for. The kernel does all other kinds of it itself.
pub(crate) fn seek(whence: i32, offset: i64) -> Option<Seek> {
    const SEEK_DATA: i32 = 3;
    const SEEK_HOLE: i32 = 4;
    match whence {
        SEEK_DATA => Some(Seek::Data(offset)),
        SEEK_HOLE => Some(Seek::Hole(offset)),
        _ => None,
    }
}

/// Returns the names as listxattr(2) does: a zero byte ends each.
pub(crate) fn name_list(names: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        list.extend_from_slice(name.as_ref());
        list.push(0);
    }
    list
}

/// Returns the error of a listing: a directory that was removed from outside of the mount while a
/// program has it open lists as any removed one does.
pub(crate) fn listing_error(error: agentfs_core::Errno) -> Errno {
    match error {
        agentfs_core::Errno::ESTALE => Errno::ENOENT,
        other => errno(other),
    }
}

pub(crate) fn reply_empty(result: agentfs_core::Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(crate) fn reply_written(result: agentfs_core::Result<u64>, reply: ReplyWrite) {
    match result {
        // No request is for more than the protocol's 32 bits can answer.
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(error)),
    }
}

/// Answers getxattr and listxattr: with the size if there is no room to fill, else with the bytes.
pub(crate) fn reply_xattr(
    result: agentfs_core::Result<impl AsRef<[u8]>>,
    room: u32,
    reply: ReplyXattr,
) {
    let value = match &result {
        Ok(value) => value.as_ref(),
        Err(error) => return reply.error(errno(*error)),
    };
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    if room == 0 {
        reply.size(length);
    } else if length > room {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
