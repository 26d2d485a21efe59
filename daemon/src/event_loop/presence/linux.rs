//! Hears by inotify what is removed.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use super::Loss;
use crate::base::config::Companion;

/// Watches the directory of the socket.
#[derive(Debug)]
pub(crate) struct Presence {
    inotify: OwnedFd,
    directory: PathBuf,
    socket: Vec<u8>,
    companion: Option<Companion>,
    /// The watches that count.
    watches: Vec<i32>,
}

impl Presence {
    /// Watches what is beside this socket.
    pub(crate) fn start(socket: &Path, companion: Option<Companion>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let mut presence = Self {
            inotify,
            directory: socket.parent().unwrap_or(Path::new(".")).to_owned(),
            socket: socket.file_name().unwrap_or_default().as_bytes().to_vec(),
            companion,
            watches: Vec::new(),
        };
        presence.watch();
        Ok(presence)
    }

    /// The file beside the socket that is kept, too.
    pub(crate) fn companion(&self) -> Option<Companion> {
        self.companion
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_raw_fd()
    }

    /// Watches the directory, or the next one above it that is there. To be called again after a
    /// loss, before it is looked whether all is there: what is lost later is heard.
    pub(crate) fn watch(&mut self) {
        for watch in self.watches.drain(..) {
            if let Err(error) = inotify::remove_watch(&self.inotify, watch) {
                tracing::debug!(%error, "the directory of a watch is gone, and so is the watch");
            }
        }
        let gone = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let names = WatchFlags::DELETE | WatchFlags::MOVED_FROM;
        let arrivals = WatchFlags::CREATE | WatchFlags::MOVED_TO;
        for directory in self.directory.ancestors() {
            let is_own = directory == self.directory;
            let directory = if directory.as_os_str().is_empty() {
                Path::new(".")
            } else {
                directory
            };
            let wanted = if is_own { names } else { arrivals };
            match inotify::add_watch(&self.inotify, directory, gone | wanted) {
                Ok(watch) => {
                    self.watches.push(watch);
                    return;
                }
                Err(error) => {
                    tracing::debug!(directory = %directory.display(), %error, "not watched");
                }
            }
        }
    }

    /// What went away since the last call.
    pub(crate) fn hear(&mut self) -> Loss {
        let mut loss = Loss::default();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = events.next() {
            // A watch that was taken away says so.
            if !self.watches.contains(&event.wd()) {
                continue;
            }
            let is_name = ReadFlags::DELETE | ReadFlags::MOVED_FROM;
            let name = event
                .file_name()
                .map(|it| it.to_bytes())
                .unwrap_or_default();
            if event.events().intersects(is_name) {
                loss.socket |= name == self.socket;
                let name = OsStr::from_bytes(name);
                loss.companion |= self.companion.is_some_and(|it| (it.is_name)(name));
            } else {
                loss.socket = true;
            }
        }
        loss
    }
}
