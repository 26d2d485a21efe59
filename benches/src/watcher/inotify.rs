//! One watch on the directory. All calls are libc's, as in any program.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Heard;
use crate::Failure;

pub(super) struct InotifyReader {
    instance: Inotify,
    buffer: Vec<u8>,
}

/// wd, mask, cookie, len.
const HEAD: usize = 16;
const IN_Q_OVERFLOW: u32 = 0x4000;

impl InotifyReader {
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        let instance = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        instance.add_watch(root, AddWatchFlags::IN_MODIFY)?;
        Ok(Self {
            instance,
            buffer: vec![0; 1 << 16],
        })
    }

    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        let mut fds = [PollFd::new(self.instance.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        Ok(())
    }

    pub(super) fn take(&mut self, hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
        let len = match nix::unistd::read(self.instance.as_fd(), &mut self.buffer) {
            Ok(len) => len,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => {
                let fd = self.instance.as_fd().as_raw_fd();
                return Err(format!("read of inotify descriptor {fd}: {error}").into());
            }
        };
        let mut rest = self.buffer.get(..len).unwrap_or_default();
        while let Some((head, tail)) = rest.split_at_checked(HEAD) {
            let word = |at: usize| {
                let bytes = head.get(at..).and_then(|it| it.first_chunk());
                bytes.map_or(0, |it| u32::from_ne_bytes(*it))
            };
            let (name, next) = tail
                .split_at_checked(word(12) as usize)
                .ok_or("an event that ends early")?;
            rest = next;
            if word(4) & IN_Q_OVERFLOW != 0 {
                hear(Heard::Overflow);
            }
            let end = name.iter().position(|it| *it == 0).unwrap_or(name.len());
            if let Some(heard) = Heard::named(name.get(..end).unwrap_or_default()) {
                hear(heard);
            }
        }
        Ok(())
    }
}
