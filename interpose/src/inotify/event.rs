//! `struct inotify_event` in the program's buffer: what goes out of it and what comes in.
//!
//! Layout (inotify(7), `include/uapi/linux/inotify.h`): wd i32, mask u32, cookie u32, len u32, then
//! `len` bytes of name, padded with NULs to a multiple of 16.
//!
//! ## Contract
//!
//! What the SAFETY comments of this file cite:
//!
//! 1. Our own: in a [`Buffer`] the first `filled` bytes are initialised, and `filled` is at most the length.
//!    [`Buffer::new`] has its caller's promise for that; [`Buffer::sift`] and [`Buffer::insert`] copy what
//!    is initialised, or write what they add; [`Buffer::read_more`] counts what the kernel has written.
#![expect(
    unsafe_code,
    reason = "reads the part of the program's buffer that the kernel has written"
)]

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

/// Bytes of an event without a name.
pub(crate) const HEADER: usize = 16;
/// The longest name of an entry (`NAME_MAX`).
pub(crate) const NAME_MAX: usize = 255;

pub(crate) const IN_ACCESS: u32 = 0x1;
pub(crate) const IN_Q_OVERFLOW: u32 = 0x4000;
pub(crate) const IN_IGNORED: u32 = 0x8000;

/// The head of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) wd: i32,
    pub(crate) mask: u32,
    pub(crate) cookie: u32,
}

impl Head {
    /// The event that says: you may have missed something.
    pub(crate) const OVERFLOW: Self = Self {
        wd: -1,
        mask: IN_Q_OVERFLOW,
        cookie: 0,
    };
}

/// Returns the bytes of an event with a name of this length, as `inotify_fsnotify.c:
/// round_event_name_len` computes them: a NUL at least, and a multiple of the header.
pub(crate) const fn event_len(name: usize) -> usize {
    if name == 0 {
        HEADER
    } else {
        HEADER + (name + 1).next_multiple_of(HEADER)
    }
}

/// What becomes of an event of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The program gets it.
    Keep,
    /// The program does not get it.
    Strip,
    /// The program does not get it, and injected events go in its place.
    Token,
    /// The program gets it, and injected events go behind it.
    KeepToken,
}

/// The program's buffer, filled up to some length with whole events.
#[derive(Debug)]
pub(crate) struct Buffer<'a> {
    bytes: &'a mut [MaybeUninit<u8>],
    filled: usize,
}

impl<'a> Buffer<'a> {
    /// Wraps the program's buffer.
    ///
    /// # Safety
    /// * The first `filled` bytes are initialised.
    pub(crate) unsafe fn new(bytes: &'a mut [MaybeUninit<u8>], filled: usize) -> Self {
        let filled = filled.min(bytes.len());
        Self { bytes, filled }
    }

    /// Returns how many bytes are filled.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Returns how many bytes are free.
    pub(crate) fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }

    /// Returns whether an event with a name of this length fits.
    pub(crate) fn has_room_for(&self, name: usize) -> bool {
        event_len(name) <= self.room()
    }

    /// Reads behind what is filled. Returns whether anything came.
    pub(crate) fn read_more(&mut self, fd: BorrowedFd<'_>) -> bool {
        let free = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let Ok((read, _)) = rustix::io::read(fd, free) else {
            return false;
        };
        let len = read.len();
        self.filled += len;
        len > 0
    }

    /// Returns the head of the first event.
    pub(crate) fn first(&self) -> Option<Head> {
        self.event(0).map(|(head, _)| head)
    }

    /// Returns head and length of the event at `at`, or `None` when there is no whole one.
    fn event(&self, at: usize) -> Option<(Head, usize)> {
        let filled = self.bytes.get(at..self.filled)?;
        let header = filled.first_chunk::<HEADER>()?;
        // SAFETY: 1: `header` is a part of the first `filled` bytes.
        let header = header.map(|byte| unsafe { byte.assume_init() });
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = header;
        let name = usize::try_from(u32::from_ne_bytes([m, n, o, p])).ok()?;
        let len = HEADER.checked_add(name)?;
        (len <= filled.len()).then_some((
            Head {
                wd: i32::from_ne_bytes([a, b, c, d]),
                mask: u32::from_ne_bytes([e, f, g, h]),
                cookie: u32::from_ne_bytes([i, j, k, l]),
            },
            len,
        ))
    }

    /// Has every event from `from` on judged, and takes out those that are not the program's. Returns where
    /// injected events go.
    ///
    /// Bytes that are no events are left alone.
    pub(crate) fn sift(
        &mut self,
        from: usize,
        mut judge: impl FnMut(Head) -> Verdict,
    ) -> Option<usize> {
        let (mut at, mut to) = (from, from);
        let mut token = None;
        while let Some((head, len)) = self.event(at) {
            let verdict = judge(head);
            if verdict == Verdict::Token && token.is_none() {
                token = Some(to);
            }
            if matches!(verdict, Verdict::Keep | Verdict::KeepToken) {
                if to < at {
                    self.bytes.copy_within(at..at + len, to);
                }
                to += len;
            }
            if verdict == Verdict::KeepToken && token.is_none() {
                token = Some(to);
            }
            at += len;
        }
        if to < at {
            self.bytes.copy_within(at..self.filled, to);
            self.filled -= at - to;
        }
        token
    }

    /// Inserts an event at `at`, before the event that is there, and moves `at` behind it. Returns false
    /// when the new event does not fit.
    pub(crate) fn insert(&mut self, at: &mut usize, head: Head, name: &[u8]) -> bool {
        let len = event_len(name.len());
        if len > self.room() || *at > self.filled {
            return false;
        }
        let end = *at + len;
        self.bytes.copy_within(*at..self.filled, end);
        self.filled += len;
        let Some(slot) = self.bytes.get_mut(*at..end) else {
            return false;
        };
        slot.fill(MaybeUninit::new(0));
        let padded = u32::try_from(len - HEADER).unwrap_or(0).to_ne_bytes();
        let wd = head.wd.to_ne_bytes();
        let mask = head.mask.to_ne_bytes();
        let cookie = head.cookie.to_ne_bytes();
        let bytes = [&wd, &mask, &cookie, &padded].into_iter().flatten();
        for (to, from) in slot.iter_mut().zip(bytes.chain(name)) {
            *to = MaybeUninit::new(*from);
        }
        *at = end;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HIDDEN: i32 = 1000;
    const OVERFLOW: i32 = -1;

    type Event = (i32, u32, u32, Vec<u8>);

    fn encode(events: &[Event]) -> Vec<u8> {
        let mut out = Vec::new();
        for (wd, mask, cookie, name) in events {
            let len = event_len(name.len());
            let end = out.len() + len;
            out.extend(wd.to_ne_bytes());
            out.extend(mask.to_ne_bytes());
            out.extend(cookie.to_ne_bytes());
            out.extend(u32::try_from(len - HEADER).unwrap().to_ne_bytes());
            out.extend(name);
            out.resize(end, 0);
        }
        out
    }

    fn judge(head: Head) -> Verdict {
        match head.wd {
            HIDDEN => Verdict::Token,
            OVERFLOW => Verdict::KeepToken,
            _ => Verdict::Keep,
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        let wd = prop_oneof![4 => 1..9_i32, 2 => Just(HIDDEN), 1 => Just(OVERFLOW)];
        let name = prop_oneof![
            Just(Vec::new()),
            proptest::collection::vec(1_u8.., 1..NAME_MAX + 1)
        ];
        (wd, any::<u32>(), any::<u32>(), name)
    }

    proptest! {
        #[test]
        fn injected_events_replace_the_first_token_as_far_as_they_fit(
            kernel in proptest::collection::vec(event(), 0..12),
            ring in proptest::collection::vec(event(), 0..12),
            room in 0..2000_usize,
        ) {
            // The model: a list.
            let mut expected: Vec<Event> = Vec::new();
            let mut place = None;
            for event in &kernel {
                match event.0 {
                    HIDDEN => place = place.or(Some(expected.len())),
                    OVERFLOW => {
                        expected.push(event.clone());
                        place = place.or(Some(expected.len()));
                    }
                    _ => expected.push(event.clone()),
                }
            }
            let bytes = encode(&kernel);
            let len = bytes.len() + room;
            if let Some(mut place) = place {
                for event in &ring {
                    if encode(&expected).len() + event_len(event.3.len()) > len {
                        break;
                    }
                    expected.insert(place, event.clone());
                    place += 1;
                }
            }

            let mut memory: Vec<_> = bytes.iter().copied().map(MaybeUninit::new).collect();
            memory.resize(len, MaybeUninit::new(0xee));
            // SAFETY: the first `bytes.len()` bytes of `memory` are those of `bytes`.
            let mut buffer = unsafe { Buffer::new(&mut memory, bytes.len()) };
            if let Some(mut at) = buffer.sift(0, judge) {
                for (wd, mask, cookie, name) in &ring {
                    let head = Head { wd: *wd, mask: *mask, cookie: *cookie };
                    if !buffer.insert(&mut at, head, name) {
                        break;
                    }
                }
            }
            let filled = buffer.filled();
            // SAFETY: every byte of `memory` was made by `MaybeUninit::new`.
            let found: Vec<u8> = memory.iter().take(filled).map(|byte| unsafe { byte.assume_init() }).collect();
            prop_assert_eq!(found, encode(&expected));
        }

        #[test]
        fn bytes_that_are_no_events_stay_as_they_are(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut memory: Vec<_> = bytes.iter().copied().map(MaybeUninit::new).collect();
            // SAFETY: the first `bytes.len()` bytes of `memory` are those of `bytes`.
            let mut buffer = unsafe { Buffer::new(&mut memory, bytes.len()) };
            prop_assert_eq!(buffer.sift(0, |_| Verdict::Keep), None);
            prop_assert_eq!(buffer.filled(), bytes.len());
            // SAFETY: every byte of `memory` was made by `MaybeUninit::new`.
            let found: Vec<u8> = memory.iter().map(|byte| unsafe { byte.assume_init() }).collect();
            prop_assert_eq!(found, bytes);
        }
    }

    #[test]
    fn lengths_are_the_kernels() {
        let lengths = [0, 1, 15, 16, 31, 32, 255].map(event_len);
        assert_eq!(lengths, [16, 32, 32, 48, 48, 64, 272]);
    }
}
