//! A bare doorbell: what waking a program costs by itself.

use std::os::fd::AsFd as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Heard;
use crate::Failure;

/// Sleeps until it is rung.
pub(super) fn wait() -> Result<(), Failure> {
    let bell = std::io::stderr();
    poll(
        &mut [PollFd::new(bell.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )?;
    Ok(())
}

/// Takes what was rung.
pub(super) fn take(hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
    match nix::unistd::read(std::io::stderr(), &mut [0; 8]) {
        Ok(_) => hear(Heard::File(0)),
        Err(nix::errno::Errno::EAGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
