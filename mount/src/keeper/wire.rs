//! What is said between a server and the keeper of its mount.
//!
//! A mount goes over a socket as one byte with the descriptor of `/dev/fuse` (`SCM_RIGHTS`), the length
//! of the [`SavedMount`] (4 bytes, little-endian), and the [`SavedMount`] as bytes. It goes from the
//! first server to the keeper that it starts, which answers one byte when the mount can be taken over,
//! and from the keeper to each later server that connects. The server holds the connection as long as
//! it lives. It writes a byte when there is nothing to be kept any more: the mount has ended, or another
//! keeper has it.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::kept::{Kept, SavedMount};
use crate::kernel_mount;

/// Longer than any path.
const LONGEST: u32 = 1 << 16;

/// Sends a mount.
pub(super) fn send(
    socket: &UnixStream,
    device: BorrowedFd<'_>,
    saved: &SavedMount,
) -> io::Result<()> {
    let descriptors = [device];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(ErrorKind::InvalidInput.into());
    }
    rustix::io::retry_on_intr(|| {
        let byte = [IoSlice::new(b"M")];
        sendmsg(socket, &byte, &mut control, SendFlags::NOSIGNAL)
    })?;
    let bytes = saved.to_bytes();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut rest = length.to_le_bytes().to_vec();
    rest.extend_from_slice(&bytes);
    (&*socket).write_all(&rest)
}

/// Receives a mount.
pub(super) fn receive(socket: &UnixStream) -> io::Result<Kept> {
    let device = kernel_mount::receive(socket)?.ok_or(ErrorKind::UnexpectedEof)?;
    let mut socket = socket;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    socket.take(u64::from(length)).read_to_end(&mut bytes)?;
    let saved = SavedMount::from_bytes(&bytes);
    let saved = saved.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok(Kept::new(device, saved))
}

/// Returns whether the process at the other end is of this process's user.
pub(super) fn is_own_user(socket: impl AsFd) -> bool {
    rustix::net::sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}
