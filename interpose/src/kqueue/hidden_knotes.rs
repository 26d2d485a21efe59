//! The knotes and descriptors that the shim has in a program's queue: how they come, move and go.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: an [`OwnedFd`] is an open descriptor that nobody else closes, and `into_raw_fd` hands that
//!    duty over without closing it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use agentfs_ring::doorbell::{BellKind, Waiter};

use super::abi::{self, Event};
use super::daemon::{Channel, Daemon};
use super::engine::file_at;
use super::kernel::{self, Errno, Originals};
use super::queue::{NO_IDENT, Queue, RESERVED_IDENT, State, pack};
use crate::fd_table::{self, Owner};

impl Queue {
    /// Moves the reserved EVFILT_USER knote to another ident, because the program uses this one itself.
    pub(super) fn move_user_knote(&self, state: &mut State, originals: &Originals) {
        let old = self.hidden().user;
        let mut new = new_ident();
        while new == old {
            new = new_ident();
        }
        let change = |event: &Event| kernel::change_as(originals, self.flavour, state.kq, event);
        if change(&user_knote(new)).is_err() {
            return;
        }
        self.user.store(new, Ordering::Release);
        // Gone is gone: an error leaves nothing to undo.
        let _deleted = change(&Event {
            flags: abi::EV_DELETE,
            ..user_knote(old)
        });
        state.user_is_up = false;
        self.show_leftovers(state, originals);
    }

    /// Drops the channel, through which nothing comes any more.
    pub(super) fn disconnect(&self, state: &mut State, originals: &Originals) {
        if let Some(ident) = self.hidden().doorbell {
            let delete = Event {
                flags: abi::EV_DELETE,
                ..doorbell_knote(ident)
            };
            // Gone is gone: an error leaves nothing to undo.
            let _deleted = kernel::change_as(originals, self.flavour, state.kq, &delete);
        }
        self.doorbell.store(NO_IDENT, Ordering::Release);
        state.more = false;
        if let Some(channel) = state.channel.take() {
            close_channel(channel);
        }
    }

    /// Watches for a new daemon by a hidden knote, because the program may sleep until the daemon comes.
    pub(super) fn await_daemon(&self, originals: &Originals, daemon: &impl Daemon) {
        let Some(mut state) = self.state.lock() else {
            return;
        };
        if state.restart_directory.is_some() {
            return;
        }
        let Some(directory) = daemon.restart_directory() else {
            return;
        };
        let fd = directory.as_raw_fd();
        let Ok(ident) = u64::try_from(fd) else {
            return;
        };
        let added = kernel::change_as(originals, self.flavour, state.kq, &restart_knote(ident));
        if added.is_ok() {
            fd_table::set(fd, Owner::Hidden);
            self.restart.store(ident, Ordering::Release);
            state.restart_directory = Some(directory);
        } else {
            close_ours(directory);
        }
    }

    /// Goes on with a new channel if there is a new daemon: everything is registered again, and as changes may
    /// have been missed, every knote gets NOTE_WRITE. A queue that has its channel gets a new one, too.
    pub(crate) fn reconnect(&self, originals: &Originals, daemon: &impl Daemon) {
        let Some((id, channel)) = daemon.open_queue() else {
            return;
        };
        let Some(mut state) = self.state.lock() else {
            daemon.close_queue(id);
            return;
        };
        self.disconnect(&mut state, originals);
        self.end_waiting(&mut state, originals);
        self.id.store(pack(id), Ordering::Relaxed);
        state.channel = Some(channel);
        // An open file keeps its filesystem, and the filesystem its device number. So a mount of the new
        // daemon with this number is the one that the file is on.
        let is_still = |ident, node| file_at(ident).is_some_and(|(_, now)| now == node);
        state.outbox = state.knotes.all(is_still);
        if self.connect(&mut state, originals).is_err() {
            // The program has closed the queue.
            return;
        }
        drop(state);
        self.send_outbox(daemon);
        daemon.reserved_ident(id, self.hidden().user);
        if let Some(mut state) = self.state.lock() {
            state.knotes.post_all(abi::NOTE_WRITE);
            self.show_leftovers(&mut state, originals);
        }
    }

    /// Ends what [`await_daemon`](Self::await_daemon) began.
    fn end_waiting(&self, state: &mut State, originals: &Originals) {
        let Some(directory) = state.restart_directory.take() else {
            return;
        };
        if let Some(ident) = self.hidden().restart {
            let delete = Event {
                flags: abi::EV_DELETE,
                ..restart_knote(ident)
            };
            // Gone is gone: an error leaves nothing to undo.
            let _deleted = kernel::change_as(originals, self.flavour, state.kq, &delete);
        }
        self.restart.store(NO_IDENT, Ordering::Release);
        close_ours(directory);
    }

    /// Takes the hidden knotes out of the program's queue again.
    pub(crate) fn withdraw(&self, originals: &Originals) {
        let Some(mut state) = self.state.lock() else {
            return;
        };
        self.disconnect(&mut state, originals);
        let delete = Event {
            flags: abi::EV_DELETE,
            ..user_knote(self.hidden().user)
        };
        // Gone is gone: an error leaves nothing to undo.
        let _deleted = kernel::change_as(originals, self.flavour, state.kq, &delete);
    }

    /// Closes what is ours of a queue that the program has closed, and the kernel's knotes with it.
    pub(crate) fn close(&self) {
        self.doorbell.store(NO_IDENT, Ordering::Release);
        self.restart.store(NO_IDENT, Ordering::Release);
        let Some(mut state) = self.state.lock() else {
            return;
        };
        if let Some(channel) = state.channel.take() {
            close_channel(channel);
        }
        if let Some(directory) = state.restart_directory.take() {
            close_ours(directory);
        }
    }

    /// Moves a hidden descriptor to another number, because the program takes its number `fd`.
    pub(crate) fn yield_number(&self, originals: &Originals, fd: RawFd) -> Result<(), Errno> {
        let mut state = self.state.lock().ok_or(Errno(libc::EINTR))?;
        if state.restart_directory.as_ref().map(AsRawFd::as_raw_fd) == Some(fd) {
            self.end_waiting(&mut state, originals);
            return Ok(());
        }
        let Some(channel) = &mut state.channel else {
            return Ok(());
        };
        let copy = rustix::io::fcntl_dupfd_cloexec(&channel.doorbell, fd.saturating_add(1))?;
        let moved = Waiter::from_fd(copy, BellKind::Pipe);
        let old = std::mem::replace(&mut channel.doorbell, moved);
        self.connect(&mut state, originals)?;
        close_ours(old.into());
        Ok(())
    }
}

/// Closes a descriptor of ours past the hook of close(2), which protects it.
pub(super) fn close_ours(fd: OwnedFd) {
    let fd = fd.into_raw_fd();
    fd_table::set(fd, Owner::Foreign);
    #[expect(unsafe_code, reason = "dropping an OwnedFd would go through the hook")]
    // SAFETY: 1: `fd` was owned here alone, and is closed once; no borrow outlives the owner.
    unsafe {
        rustix::io::close(fd);
    }
}

pub(super) fn close_channel(channel: Channel) {
    close_ours(channel.doorbell.into());
    if let Some(refill) = channel.refill {
        close_ours(refill.into());
    }
}

pub(super) fn new_ident() -> u64 {
    RESERVED_IDENT | RandomState::new().hash_one(0) & 0xFFFF_FFFF
}

pub(super) fn user_knote(ident: u64) -> Event {
    Event {
        ident,
        filter: abi::EVFILT_USER,
        flags: abi::EV_ADD,
        ..Event::default()
    }
}

pub(super) fn doorbell_knote(ident: u64) -> Event {
    Event {
        ident,
        filter: abi::EVFILT_READ,
        flags: abi::EV_ADD,
        ..Event::default()
    }
}

pub(super) fn restart_knote(ident: u64) -> Event {
    Event {
        ident,
        filter: abi::EVFILT_VNODE,
        flags: abi::EV_ADD | abi::EV_CLEAR,
        fflags: abi::NOTE_WRITE,
        ..Event::default()
    }
}
