//! One knote for each file, in whatever kqueue is preloaded.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use nix::libc::timespec;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Heard;
use crate::Failure;
use crate::kqueue::{EVFILT_VNODE, Kevent, Kqueue};

/// Every `NOTE_*` of a vnode.
const NOTES: u32 = 0x7f;
const END: u64 = u64::MAX;
const AT_ONCE: timespec = timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

pub(super) struct KqueueReader {
    queue: Kqueue,
    events: Vec<Kevent>,
    _files: Vec<File>,
}

impl KqueueReader {
    pub(super) fn open(root: &Path, files: u32) -> Result<Self, Failure> {
        let mut reader = Self {
            queue: Kqueue::new()?,
            events: vec![Kevent::default(); 512],
            _files: Vec::new(),
        };
        for number in 0..files {
            reader.watch(&root.join(format!("f{number}")), number.into())?;
        }
        reader.watch(&root.join("end"), END)?;
        Ok(reader)
    }

    fn watch(&mut self, path: &Path, udata: u64) -> Result<(), Failure> {
        let file = File::open(path)?;
        self.queue
            .add(file.as_raw_fd(), EVFILT_VNODE, NOTES, udata)?;
        self._files.push(file);
        Ok(())
    }

    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        let mut queue = [PollFd::new(self.queue.as_fd(), PollFlags::POLLIN)];
        poll(&mut queue, PollTimeout::NONE)?;
        Ok(())
    }

    pub(super) fn take(&mut self, hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
        let count = self.queue.wait(&mut self.events, Some(AT_ONCE))?;
        for event in self.events.iter().take(count) {
            hear(match u32::try_from(event.udata) {
                Ok(index) => Heard::File(index),
                Err(_) => Heard::End,
            });
        }
        Ok(())
    }
}
