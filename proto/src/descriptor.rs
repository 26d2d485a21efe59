//! Bytes with descriptors on a Unix stream socket (`SCM_RIGHTS`, unix(7)).
//!
//! One control message a frame, attached to its first byte: macOS accepts exactly one
//! (`uipc_usrreq.c: unp_internalize`). What is received is owned at once and closed when it is
//! dropped, also when the kernel had to leave some out.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The most descriptors of a frame.
pub const MAX_DESCRIPTORS: usize = 8;

/// Sends what the socket takes of `bytes` at once, with `descriptors` on the first byte. Returns how
/// many bytes were taken: when it is at least one, the descriptors are on their way.
///
/// # Errors
///
/// As sendmsg(2). A closed socket is `EPIPE` and never a signal.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::INVAL);
    }
    rustix::io::retry_on_intr(|| sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, NO_SIGNAL))
}

#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// The socket option `SO_NOSIGPIPE` does it there.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: SendFlags = SendFlags::empty();

#[cfg(not(target_vendor = "apple"))]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::empty();

/// What [`receive`] got.
#[derive(Debug)]
pub struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub len: usize,
    /// The descriptors that came with them, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Whether there were more descriptors than [`MAX_DESCRIPTORS`], or than the process may have.
    pub truncated: bool,
}

/// Receives bytes and descriptors.
///
/// # Errors
///
/// As recvmsg(2).
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            CLOSE_ON_EXEC,
        )
    })?;
    let mut descriptors = Vec::new();
    for received in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = received {
            descriptors.extend(fds);
        }
    }
    close_on_exec(&descriptors)?;
    Ok(Received {
        len: message.bytes,
        descriptors,
        truncated: message.flags.contains(ReturnFlags::CTRUNC),
    })
}

/// Has the descriptors closed on exec, where recvmsg(2) cannot be asked to.
#[cfg(target_vendor = "apple")]
fn close_on_exec(descriptors: &[OwnedFd]) -> rustix::io::Result<()> {
    for descriptor in descriptors {
        rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::CLOEXEC)?;
    }
    Ok(())
}

#[cfg(not(target_vendor = "apple"))]
#[expect(clippy::unnecessary_wraps, reason = "another system's fails")]
fn close_on_exec(_: &[OwnedFd]) -> rustix::io::Result<()> {
    Ok(())
}
