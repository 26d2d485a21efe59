//! One knote: what was registered, what is pending, and how it is delivered.

use std::os::fd::{AsFd, RawFd};
use std::sync::Weak;

use rustix::event::PollFlags;

use crate::abi::{self, Event};
use crate::queue::Queue;
use crate::sys::{self, QuietFd};

/// What makes a knote active.
#[derive(Debug)]
pub(crate) enum Source {
    /// Posts to the file (device, inode).
    Vnode((u64, u64)),
    /// Posts to the directory, and changes of its entries, from an inotify instance.
    Directory((u64, u64), QuietFd),
    /// Data to read. The queue is there when the descriptor is one.
    Read(Option<Weak<Queue>>),
    /// Room to write.
    Write,
    /// A timerfd.
    Timer(QuietFd),
    /// A signalfd, and signals posted by the tests.
    Signal(QuietFd, i64),
    /// NOTE_TRIGGER.
    User {
        /// NOTE_TRIGGER was given and is not yet cleared.
        triggered: bool,
    },
}

/// How far a knote is from its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    Alive,
    /// EV_DELETE came for a disabled EV_DISPATCH2 knote, which is deleted when it is enabled
    /// (KN_DEFERDELETE).
    Deferred,
    /// The descriptor was closed, and the knote was registered with EV_VANISHED (KN_VANISHED).
    Vanished,
}

/// What becomes of a knote by its delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum After {
    /// It is not active until something new happens.
    Idle,
    /// It is still active, and goes to the end of the queue.
    Again,
    /// It is disabled (EV_DISPATCH).
    Disabled,
    /// It is gone (EV_ONESHOT).
    Dropped,
}

#[derive(Debug)]
pub(crate) struct Knote {
    /// ident, filter, udata, ext and qos; `flags` is the latched word, `fflags` the interest
    /// (kn_sfflags), `data` the given data (kn_sdata).
    pub(crate) registered: Event,
    /// Collected bits (kn_fflags).
    pub(crate) pending: u32,
    pub(crate) disabled: bool,
    pub(crate) queued: bool,
    pub(crate) reports_vanishing: bool,
    pub(crate) life: Life,
    pub(crate) source: Source,
}

impl Knote {
    pub(crate) fn has(&self, flag: u16) -> bool {
        self.registered.flags & flag == flag
    }

    pub(crate) fn ident_fd(&self) -> Option<RawFd> {
        match self.source {
            Source::Vnode(_) | Source::Directory(..) | Source::Read(_) | Source::Write => {
                RawFd::try_from(self.registered.ident).ok()
            }
            Source::Timer(_) | Source::Signal(..) | Source::User { .. } => None,
        }
    }

    /// Returns the file of an EVFILT_VNODE knote.
    pub(crate) fn node(&self) -> Option<(u64, u64)> {
        match self.source {
            Source::Vnode(node) | Source::Directory(node, _) => Some(node),
            Source::Read(_)
            | Source::Write
            | Source::Timer(_)
            | Source::Signal(..)
            | Source::User { .. } => None,
        }
    }

    /// Notes that the descriptor is ready. Returns whether that makes the knote active.
    pub(crate) fn on_ready(&mut self) -> bool {
        let Source::Directory(_, watch) = &self.source else {
            return true;
        };
        let hint = sys::take_directory_changes(watch);
        self.post(hint)
    }

    /// Applies the filter rule of EVFILT_VNODE (`xnu: filt_vnode_common`): any requested bit lets the whole
    /// hint in, and NOTE_REVOKE concerns every knote. Returns whether the knote is active now.
    pub(crate) fn post(&mut self, hint: u32) -> bool {
        let interest = self.registered.fflags;
        if hint & abi::NOTE_REVOKE != 0 {
            self.registered.flags |= abi::EV_EOF | abi::EV_ONESHOT;
            self.pending |= hint & interest;
            return true;
        }
        if interest & hint != 0 {
            self.pending |= hint;
        }
        self.pending != 0
    }

    /// Applies a later change (f_touch), which replaces interest and udata. Returns whether the knote is active.
    pub(crate) fn touch(&mut self, change: &Event) -> bool {
        if !self.has(abi::EV_UDATA_SPECIFIC) {
            self.registered.udata = change.udata;
        }
        if let Source::User { triggered } = &mut self.source {
            let given = change.fflags & abi::NOTE_FFLAGSMASK;
            let flags = &mut self.registered.fflags;
            *flags = match change.fflags & abi::NOTE_FFCTRLMASK {
                abi::NOTE_FFAND => *flags & given,
                abi::NOTE_FFOR => *flags | given,
                abi::NOTE_FFCOPY => given,
                _ => *flags,
            };
            self.registered.data = change.data;
            *triggered |= change.fflags & abi::NOTE_TRIGGER != 0;
            return *triggered;
        }
        self.registered.fflags = change.fflags;
        self.is_active()
    }

    /// Returns whether the knote is active without asking the kernel: the readiness of descriptors comes
    /// through epoll.
    pub(crate) fn is_active(&self) -> bool {
        match (&self.source, self.life) {
            (_, Life::Deferred | Life::Vanished) => true,
            (Source::Vnode(_) | Source::Directory(..), _) => {
                self.pending != 0 || self.has(abi::EV_EOF)
            }
            (Source::User { triggered }, _) => *triggered,
            (Source::Signal(_, count), _) => *count != 0,
            (Source::Read(_) | Source::Write | Source::Timer(_), _) => false,
        }
    }

    /// Takes the event of an active knote (f_process and what follows in `xnu: knote_process`). Returns
    /// `None` when the knote is not active any more.
    pub(crate) fn deliver(&mut self) -> Option<(Event, After)> {
        if self.life != Life::Alive {
            let fate = match self.life {
                Life::Deferred => abi::EV_DELETE,
                Life::Alive | Life::Vanished => abi::EV_VANISHED,
            };
            let event = Event {
                ident: self.registered.ident,
                filter: self.registered.filter,
                flags: abi::EV_DISPATCH2 | abi::EV_ONESHOT | fate,
                udata: self.registered.udata,
                ..Event::default()
            };
            return Some((event, After::Dropped));
        }
        let (event, stays) = self.process()?;
        let after = if self.has(abi::EV_ONESHOT) {
            if self.has(abi::EV_DISPATCH2) {
                self.life = Life::Deferred;
                After::Disabled
            } else {
                After::Dropped
            }
        } else if self.has(abi::EV_DISPATCH) {
            After::Disabled
        } else if stays {
            After::Again
        } else {
            After::Idle
        };
        Some((event, after))
    }

    /// Does the filter's part. Returns the event, and whether the knote stays active without a new post.
    fn process(&mut self) -> Option<(Event, bool)> {
        let clear = self.has(abi::EV_CLEAR);
        let mut event = self.registered;
        event.data = 0;
        event.fflags = 0;
        match &mut self.source {
            Source::Vnode(_) | Source::Directory(..) => {
                if self.pending == 0 && event.flags & abi::EV_EOF == 0 {
                    return None;
                }
                event.fflags = self.pending;
                if clear {
                    self.pending = 0;
                }
                Some((event, !clear))
            }
            Source::Read(queue) => {
                let fd = sys::borrowed(RawFd::try_from(event.ident).ok()?).ok()?;
                let ready = sys::readiness(fd, PollFlags::IN | PollFlags::RDHUP).ok()?;
                if ready.intersects(PollFlags::RDHUP | PollFlags::HUP) {
                    event.flags |= abi::EV_EOF;
                }
                event.data = match queue.as_ref().map(Weak::upgrade) {
                    Some(inner) => inner?.queued(),
                    None => rustix::io::ioctl_fionread(fd)
                        .map_or(1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
                };
                (!ready.is_empty()).then_some((event, false))
            }
            Source::Write => {
                let fd = sys::borrowed(RawFd::try_from(event.ident).ok()?).ok()?;
                let ready = sys::readiness(fd.as_fd(), PollFlags::OUT).ok()?;
                if ready.intersects(PollFlags::ERR | PollFlags::HUP) {
                    event.flags |= abi::EV_EOF;
                }
                (!ready.is_empty()).then_some((event, false))
            }
            Source::Timer(timer) => {
                event.data = i64::try_from(sys::take_count(timer)).unwrap_or(i64::MAX);
                (event.data != 0).then_some((event, false))
            }
            Source::Signal(fd, count) => {
                event.data = std::mem::take(count) + sys::take_signals(fd);
                (event.data != 0).then_some((event, false))
            }
            Source::User { triggered } => {
                if !*triggered {
                    return None;
                }
                event.fflags = self.registered.fflags & abi::NOTE_FFLAGSMASK;
                event.data = self.registered.data;
                *triggered = !clear;
                Some((event, !clear))
            }
        }
    }
}
