//! Notifications to the kernel that fuser does not have (`include/uapi/linux/fuse.h`).

use std::io;
use std::os::fd::AsFd;

/// `FUSE_NOTIFY_RESEND`.
const RESEND: i32 = 7;
/// `FUSE_NOTIFY_INC_EPOCH`.
const INC_EPOCH: i32 = 8;
/// The length of `struct fuse_out_header`.
const HEADER: u32 = 16;

/// Makes the kernel send every request again that was read from the device and not answered. No
/// thread may be reading from the device: what it works on would be sent again too.
///
/// The kernel sets the highest bit of the number of such a request (`FUSE_UNIQUE_RESEND`) and looks
/// for the answer by the changed number, so the answer carries the bit, as fuser does.
pub(crate) fn resend(fuse: impl AsFd) -> io::Result<()> {
    notify(fuse, RESEND)
}

/// Makes the kernel look up every name again before it uses it. Linux 6.16 and later.
pub(crate) fn outdate_names(fuse: impl AsFd) -> io::Result<()> {
    notify(fuse, INC_EPOCH)
}

fn notify(fuse: impl AsFd, code: i32) -> io::Result<()> {
    let mut message = Vec::new();
    message.extend_from_slice(&HEADER.to_ne_bytes());
    message.extend_from_slice(&code.to_ne_bytes());
    // A notification answers no request.
    message.extend_from_slice(&0_u64.to_ne_bytes());
    rustix::io::retry_on_intr(|| rustix::io::write(&fuse, &message))?;
    Ok(())
}
