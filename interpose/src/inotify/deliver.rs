//! A read of the program: what the kernel returned, less the hidden events, and what is in the ring.
//!
//! An event of the bell says that the ring has something, and where its records go among the kernel's
//! events. Whoever reads it pops until the ring is empty and armed, or rings when something is left. So the
//! descriptor is readable exactly when a read returns something.
//!
//! The bell gives no right to pop, and nothing is held while a thread pops: a reader may end, be stopped, or
//! be left by a jump anywhere here, and the next one goes on ([`Queue::restore_bell`]).

use std::os::fd::BorrowedFd;

use agentfs_proto::record::{EventRef, Kind};
use agentfs_proto::registration::Registration;
use agentfs_ring::{Bell, Look, RecordBuffer};
use rustix::fs::inotify;

use crate::inotify::event::{
    Buffer, HEADER, Head, IN_ACCESS, IN_IGNORED, IN_Q_OVERFLOW, NAME_MAX, Verdict, event_len,
};
use crate::inotify::instance::State;
use crate::inotify::queue::Queue;
use crate::inotify::register::{self, Reason};
use crate::inotify::shared::HiddenWatch;
use crate::inotify::watch_table::WatchState;

/// The result of a read, once our events are out and the ring's are in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// The program gets so many bytes.
    Bytes(usize),
    /// The first event does not fit: EINVAL.
    TooSmall,
    /// Nothing of what was read is for the program: it has to be read again.
    Again,
}

/// Turns what the kernel returned into what the program gets.
pub(crate) fn deliver(fd: BorrowedFd<'_>, state: &State, buffer: &mut Buffer<'_>) -> Outcome {
    let mut from = 0;
    let mut is_too_small = false;
    loop {
        let mut scan = Scan::default();
        let token = buffer.sift(from, |head| scan.judge(state, head));
        let is_restart = scan.is_restarted || state.shared().is_restart_due();
        let is_restarted = is_restart || token.is_some() && state.queue().is_none();
        // What the daemon before has delivered comes before what the next one does.
        let has_old = is_restarted && register::has_unread_of_lost(state);
        if is_restarted {
            state.shared().set_restart_due(has_old);
            if !has_old {
                register::serve(fd, state, Reason::of(is_restart));
            }
        }
        // After a restart, the overflow is all there is to insert; the new ring has rung or will ring.
        let mut at = match token {
            Some(at) => at,
            None if is_restarted => buffer.filled(),
            None => {
                scan.forget_ended(state);
                break;
            }
        };
        if !insert_overflow(state, buffer, &mut at) {
            is_too_small = true;
            break;
        }
        if token.is_none() && !has_old {
            break;
        }
        let mut ended = Wds::default();
        is_too_small |= pop(state, buffer, &mut at, &mut ended) == Popped::TooSmall;
        scan.forget_ended(state);
        if has_old && !register::has_unread_of_lost(state) {
            state.shared().set_restart_due(false);
            register::serve(fd, state, Reason::Restart);
            let mut end = buffer.filled();
            if !insert_overflow(state, buffer, &mut end) {
                is_too_small = true;
                break;
            }
        }
        from = buffer.filled();
        if !remove_watches(&ended, fd) || !read_more(fd, buffer) {
            break;
        }
    }
    match buffer.filled() {
        0 if is_too_small => Outcome::TooSmall,
        0 => Outcome::Again,
        filled => Outcome::Bytes(filled),
    }
}

/// Inserts an overflow if the program is to get one. Returns false when it does not fit; the program reads
/// it later.
fn insert_overflow(state: &State, buffer: &mut Buffer<'_>, at: &mut usize) -> bool {
    if !state.shared().has_overflow() {
        return true;
    }
    let is_inserted = buffer.insert(at, Head::OVERFLOW, &[]);
    if is_inserted {
        state.shared().set_overflow(false);
    } else {
        ring(state);
    }
    is_inserted
}

/// Returns whether the first event is our bell, which lies in no other instance.
pub(crate) fn begins_with_bell(state: &State, buffer: &Buffer<'_>) -> bool {
    let is_bell = |head: Head| {
        head.mask & IN_ACCESS != 0 && state.shared().hidden(head) == Some(HiddenWatch::Bell)
    };
    buffer.first().is_some_and(is_bell)
}

/// What a scan of the kernel's events finds beside the events themselves.
#[derive(Debug, Default)]
struct Scan {
    is_restarted: bool,
    has_token: bool,
    /// Watches that end behind the token: their records in the ring come first.
    ended: Wds,
}

impl Scan {
    fn judge(&mut self, state: &State, head: Head) -> Verdict {
        match state.shared().hidden(head) {
            Some(HiddenWatch::Bell) if head.mask & IN_ACCESS != 0 => {
                self.has_token = true;
                return Verdict::Token;
            }
            Some(HiddenWatch::Bell) => return Verdict::Strip,
            Some(HiddenWatch::Restart) => {
                self.is_restarted = true;
                if head.mask & IN_IGNORED != 0 {
                    // The file is gone, with its directory: the daemon makes both again.
                    state.shared().release_restart(head.wd);
                }
                return Verdict::Strip;
            }
            Some(HiddenWatch::Earlier) => return Verdict::Strip,
            None => {}
        }
        if head.mask & IN_Q_OVERFLOW != 0 && head.wd == -1 {
            // A bell may have been lost in it.
            self.has_token = true;
            return Verdict::KeepToken;
        }
        if head.mask & IN_IGNORED == 0 {
            return Verdict::Keep;
        }
        match state.shared().watch_state(head.wd) {
            WatchState::Unwatched => Verdict::Keep,
            WatchState::EndDelivered => {
                state.shared().forget(head.wd);
                Verdict::Strip
            }
            WatchState::Live => {
                if !self.has_token || !self.ended.push(head.wd) {
                    forget(state, head.wd);
                }
                Verdict::Keep
            }
        }
    }

    fn forget_ended(&self, state: &State) {
        for wd in self.ended.get() {
            forget(state, *wd);
        }
    }
}

/// Forgets and unregisters a watch that the kernel has ended.
fn forget(state: &State, wd: i32) {
    state.shared().forget(wd);
    if let (Some(queue), Ok(wd)) = (state.queue(), u32::try_from(wd)) {
        queue.register(|queue| Registration::Remove { queue, wd });
    }
}

fn ring(state: &State) {
    if let Some(queue) = state.queue() {
        queue.ring();
    }
}

/// A few wds, without allocation: read(2) may be called in a signal handler.
#[derive(Debug)]
struct Wds {
    wds: [i32; 64],
    len: usize,
}

impl Default for Wds {
    fn default() -> Self {
        Self {
            wds: [0; 64],
            len: 0,
        }
    }
}

impl Wds {
    fn is_full(&self) -> bool {
        self.len == self.wds.len()
    }

    /// Adds one. Returns false when there is no place for it.
    fn push(&mut self, wd: i32) -> bool {
        let place = self.wds.get_mut(self.len);
        let has_place = place.is_some();
        if let Some(place) = place {
            *place = wd;
            self.len += 1;
        }
        has_place
    }

    fn get(&self) -> &[i32] {
        self.wds.get(..self.len).unwrap_or_default()
    }
}

/// Removes the kernel's watches whose end was in the ring. Returns whether there were any.
fn remove_watches(ended: &Wds, fd: BorrowedFd<'_>) -> bool {
    for wd in ended.get() {
        let _ = inotify::remove_watch(fd, *wd);
    }
    !ended.get().is_empty()
}

/// Reads what the kernel has at once, to take its `IN_IGNORED` out before poll(2) reports to the program
/// that there is something to read.
fn read_more(fd: BorrowedFd<'_>, buffer: &mut Buffer<'_>) -> bool {
    let is_ready = buffer.room() >= HEADER && rustix::io::ioctl_fionread(fd).is_ok_and(|n| n > 0);
    is_ready && buffer.read_more(fd)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Popped {
    /// The ring is empty and armed, or the bell has been rung for what is left.
    Done,
    /// There is an event that does not fit.
    TooSmall,
}

fn pop(state: &State, buffer: &mut Buffer<'_>, at: &mut usize, ended: &mut Wds) -> Popped {
    let Some(queue) = state.queue() else {
        return Popped::Done;
    };
    match pop_records(state, queue, buffer, at, ended) {
        Left::Nothing => Popped::Done,
        Left::Something => {
            queue.ring();
            Popped::Done
        }
        Left::TooLong => {
            queue.ring();
            Popped::TooSmall
        }
    }
}

enum Left {
    Nothing,
    Something,
    TooLong,
}

fn pop_records(
    state: &State,
    queue: &Queue,
    buffer: &mut Buffer<'_>,
    at: &mut usize,
    ended: &mut Wds,
) -> Left {
    // Records that no watch waits for are passed over, but not without end.
    const MOST: u32 = 1 << 20;
    let ring = queue.ring_memory();
    let mut copy = RecordBuffer::new();
    for _ in 0..MOST {
        let record = match ring.peek(&mut copy) {
            Ok(Some(record)) => record,
            Ok(None) if queue.arm() => return Left::Nothing,
            Ok(None) => continue,
            // Nothing more comes out of a broken ring until the queue is made anew.
            Err(_) => return Left::Nothing,
        };
        let place = record.place();
        let event = record
            .bytes()
            .and_then(Event::of)
            .filter(|event| !event.is_of_ended_watch(state));
        if event.as_ref().is_some_and(|_| ended.is_full()) {
            return Left::Something;
        }
        if let Some(event) = &event
            && !buffer.has_room_for(event.name.len())
        {
            if ring.is_first(place) {
                return Left::TooLong;
            }
            // Another reader has the record, and the copy may say anything.
            continue;
        }
        let Some(bell) = ring.take(place) else {
            continue;
        };
        if bell == Bell::Ring {
            queue.ask_for_more();
        }
        let Some(event) = event else {
            continue;
        };
        let _ = buffer.insert(at, event.head, event.name);
        if event.is_end() {
            state.shared().mark_end_delivered(event.head.wd);
            let _ = ended.push(event.head.wd);
        }
    }
    Left::Something
}

/// A record as an event of inotify.
struct Event<'a> {
    head: Head,
    name: &'a [u8],
}

impl<'a> Event<'a> {
    /// Reads a record. Returns `None` for one that is no event of inotify.
    fn of(record: &'a [u8]) -> Option<Self> {
        let record = EventRef::parse(record).ok()?;
        let (head, name) = (record.head(), record.path());
        if head.kind == Kind::OVERFLOW {
            return Some(Self {
                head: Head::OVERFLOW,
                name: &[],
            });
        }
        let mask = if head.kind == Kind::IGNORED {
            IN_IGNORED
        } else {
            head.mask
        };
        if mask & IN_Q_OVERFLOW != 0 {
            return Some(Self {
                head: Head::OVERFLOW,
                name: &[],
            });
        }
        let head = Head {
            wd: i32::try_from(head.watch).ok().filter(|wd| *wd > 0)?,
            mask,
            cookie: head.cookie,
        };
        (mask != 0 && name.len() <= NAME_MAX).then_some(Self { head, name })
    }

    fn is_end(&self) -> bool {
        self.head.mask & IN_IGNORED != 0
    }

    /// Returns whether the event is of a watch that the kernel or the daemon has already ended.
    fn is_of_ended_watch(&self, state: &State) -> bool {
        self.head.wd > 0 && state.shared().watch_state(self.head.wd) != WatchState::Live
    }
}

/// Returns the bytes that a read would return: what the kernel counts, less the bell, and what the ring
/// has.
pub(crate) fn readable_bytes(state: &State, kernel: usize) -> usize {
    let Some(queue) = state.queue() else {
        return kernel;
    };
    // Without a bell, nothing of the ring can be read yet, unless the bell was lost.
    let look = queue.ring_memory().look();
    let bell = match look {
        Look::Quiet | Look::Unarmed => return kernel,
        Look::Ringing | Look::Waiting if kernel >= HEADER => HEADER,
        Look::Waiting => 0,
        Look::Ringing => return kernel,
    };
    let mut bytes = 0;
    let mut copy = RecordBuffer::new();
    let mut after = None;
    while let Ok(Some(record)) = queue.ring_memory().peek_after(after, &mut copy) {
        let event = record.bytes().and_then(Event::of);
        let event = event.filter(|it| !it.is_of_ended_watch(state));
        bytes += event.map_or(0, |it| event_len(it.name.len()));
        after = Some(record.place());
    }
    if bytes > 0 {
        kernel - bell + bytes
    } else {
        kernel
    }
}
