//! One hooked call of the program: the steps of kevent(2), with posted events among the kernel's
//! (`xnu: bsd/kern/kern_event.c`).
//!
//! A queue without AgentFS watches costs a look into a table. For one with watches:
//!
//! 1. Changes that concern EVFILT_VNODE or a hidden knote are applied one by one, so that the shim knows
//!    which of them the kernel accepted; receipts and errors go into slots as the kernel would put them.
//! 2. The kernel waits and fetches, with our doorbell among the program's knotes.
//! 3. Hidden events go out, records go from the ring into the mirror, posted events go in.
//! 4. If nothing is left for the program, the call waits on, without changes, for the remaining time.

use std::ffi::c_int;
use std::sync::Arc;

use libc::timespec;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::abi::{self, Event, Layout};
use super::daemon::Daemon;
use super::deliver::Eventlist;
use super::engine::{Engine, is_marked, mark};
use super::kernel::{self, Call, CallOptions, Errno, Real};
use super::knote::Moment;
use super::queue::{Interrupted, Queue};

impl<D: Daemon> Engine<D> {
    /// Makes a hooked call of kevent, kevent64 or kevent_qos. Returns what the program gets: -1 with errno
    /// set, or the number of events.
    #[inline]
    pub fn call<L: Layout + Real>(&self, call: Call<L>) -> c_int {
        let has_changes = call.changes() != 0;
        if has_changes && !call.has_readable_changes() {
            return call.unchanged(&self.originals);
        }
        if is_marked(call.kq()) || has_changes && self.adds_a_watch(&call) {
            return self.hooked(call);
        }
        let start = call.waits_for_a_time().then(now);
        let since = Moment::now();
        let count = call.unchanged(&self.originals);
        // Another thread may have added the first watch while this one slept.
        if count <= 0 || !is_marked(call.kq()) {
            return count;
        }
        self.finish(call, start, |engine, call, start| {
            let count = usize::try_from(count).unwrap_or(0);
            match engine.settle(call, (count, since))? {
                0 => engine.wait(call, start, true),
                count => Ok(count),
            }
        })
    }

    #[cold]
    fn hooked<L: Layout + Real>(&self, call: Call<L>) -> c_int {
        let start = call.waits_for_a_time().then(now);
        self.finish(call, start, |engine, call, start| {
            let queue = engine.find(call.kq());
            if !concerns_us(call, queue.as_deref()) && queue.is_some() {
                return engine.wait(call, start, false);
            }
            call.check(&engine.originals)?;
            let slots = engine.change(call, queue)?;
            let errors_only = call.options().flags & abi::KEVENT_FLAG_ERROR_EVENTS != 0;
            if slots > 0 || call.room() == 0 || errors_only {
                return Ok(slots);
            }
            engine.wait(call, start, true)
        })
    }

    /// Runs `steps` and turns its result into that of a C function. errno changes only by an error.
    fn finish<L: Layout + Real>(
        &self,
        mut call: Call<L>,
        start: Option<Timespec>,
        steps: impl FnOnce(&Self, &mut Call<L>, Option<Timespec>) -> Result<usize, Errno>,
    ) -> c_int {
        let errno = Errno::last();
        match steps(self, &mut call, start) {
            Ok(count) => {
                errno.set();
                c_int::try_from(count).unwrap_or(c_int::MAX)
            }
            Err(errno) => {
                errno.set();
                -1
            }
        }
    }

    /// Makes step 1: applies the changelist, one by one. Returns the number of slots that receipts and errors
    /// took.
    fn change<L: Layout + Real>(
        &self,
        call: &mut Call<L>,
        mut queue: Option<Arc<Queue>>,
    ) -> Result<usize, Errno> {
        let mut slots = 0;
        let mut outcome = Ok(());
        for index in 0..call.changes() {
            let Some(change) = call.change(index) else {
                break;
            };
            let has_slot = slots < call.room();
            let (receipt, result) = self.change_one(call, &mut queue, &change, has_slot)?;
            match (receipt, result) {
                (Some(receipt), _) => {
                    call.put(slots, receipt);
                    slots += 1;
                }
                (None, Ok(())) => {}
                (None, Err(Errno(errno))) if has_slot => {
                    let error = Event {
                        flags: refused_flags(&change.event()) | abi::EV_ERROR,
                        data: errno.into(),
                        ..change.event()
                    };
                    call.put(slots, L::from_event(&error));
                    slots += 1;
                }
                (None, Err(errno)) => {
                    outcome = Err(errno);
                    break;
                }
            }
        }
        if let Some(queue) = queue {
            queue.send_outbox(&self.daemon);
        }
        outcome.map(|()| slots)
    }

    /// Applies one change: to the kernel first, then to the mirror. With a slot and EV_RECEIPT, the kernel
    /// writes the receipt.
    fn change_one<L: Layout + Real>(
        &self,
        call: &Call<L>,
        queue: &mut Option<Arc<Queue>>,
        change: &L,
        has_slot: bool,
    ) -> Result<(Option<L>, Result<(), Errno>), Errno> {
        let kq = call.kq();
        let event = change.event().simplified();
        let real = || {
            if !(has_slot && event.has(abi::EV_RECEIPT)) {
                return (None, kernel::change(&self.originals, kq, change));
            }
            match kernel::change_with_receipt(&self.originals, kq, change) {
                Ok(receipt) => {
                    let result = match c_int::try_from(receipt.event().data) {
                        Ok(0) => Ok(()),
                        Ok(errno) => Err(Errno(errno)),
                        Err(_) => Err(Errno(libc::EINVAL)),
                    };
                    (Some(receipt), result)
                }
                Err(errno) => (None, Err(errno)),
            }
        };
        let adds = event.filter == abi::EVFILT_VNODE && event.has(abi::EV_ADD);
        let node = if adds { self.node(event.ident) } else { None };
        if queue.is_none() && node.is_some() {
            // The kernel comes first: what it refuses needs no queue.
            let (receipt, result) = real();
            if result.is_ok() {
                *queue = self.find_or_open(kq, L::FLAVOUR);
            }
            if let Some(queue) = queue {
                self.mirror(queue, &event, node, || ((), result))?;
            }
            return Ok((receipt, result));
        }
        match queue {
            Some(queue) => self.mirror(queue, &event, node, || {
                let (receipt, result) = real();
                ((receipt, result), result)
            }),
            None => Ok(real()),
        }
    }

    fn mirror<T>(
        &self,
        queue: &Queue,
        event: &Event,
        node: Option<super::daemon::Node>,
        real: impl FnOnce() -> (T, Result<(), Errno>),
    ) -> Result<T, Errno> {
        if node.is_some()
            && let Ok(fd) = i32::try_from(event.ident)
        {
            mark(fd);
        }
        queue
            .apply((&self.originals, &self.daemon), event, node, real)
            .map_err(|Interrupted| Errno(libc::EINTR))
    }

    /// Makes steps 2 to 4. `changed` says that the changelist was applied already.
    fn wait<L: Layout + Real>(
        &self,
        call: &mut Call<L>,
        start: Option<Timespec>,
        changed: bool,
    ) -> Result<usize, Errno> {
        let mut left = timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut again = changed.then(|| *call.options());
        if changed && let (Some(start), Some(timeout)) = (start, call.timeout()) {
            // The changes may have taken long, and the deadline stands.
            left = remaining(start, timeout).unwrap_or(left);
            again = Some(CallOptions {
                timeout: &raw const left,
                ..*call.options()
            });
        }
        loop {
            let since = Moment::now();
            let count = call.wait(&self.originals, again.as_ref())?;
            if count == 0 || call.room() == 0 {
                return Ok(count);
            }
            let count = self.settle(call, (count, since))?;
            if count > 0 || call.options().is_immediate() {
                return Ok(count);
            }
            // There were only hidden events, which are dealt with.
            let mut options = *call.options();
            if let (Some(start), Some(timeout)) = (start, call.timeout()) {
                match remaining(start, timeout) {
                    Some(time) => left = time,
                    None => return Ok(0),
                }
                options.timeout = &raw const left;
            }
            again = Some(options);
        }
    }

    /// Makes step 3: turns what the kernel returned, asked at `since`, into what the program gets.
    fn settle<L: Layout + Real>(
        &self,
        call: &mut Call<L>,
        (count, since): (usize, Moment),
    ) -> Result<usize, Errno> {
        let Some(first) = call.event(0) else {
            return Ok(count);
        };
        // These are receipts and errors: the kernel fetched nothing.
        if first.head().2 & abi::EV_ERROR != 0 {
            return Ok(count);
        }
        let Some(queue) = self.find(call.kq()) else {
            return Ok(count);
        };
        let hidden = queue.hidden();
        let concerned = (0..count)
            .filter_map(|index| call.event(index))
            .any(|event| {
                let (ident, filter, _) = event.head();
                filter == abi::EVFILT_VNODE || hidden.is(ident, filter)
            });
        if !concerned {
            return Ok(count);
        }
        queue
            .merge(&self.originals, &self.daemon, call, (count, since))
            .or_else(|Interrupted| {
                // This is a signal handler that interrupted this very code: it gets what the kernel returned.
                let (kept, _) = super::deliver::strip(call, count, hidden);
                if kept > 0 {
                    Ok(kept)
                } else {
                    Err(Errno(libc::EINTR))
                }
            })
    }
}

/// Returns whether the changelist has anything to do with the mirror or a hidden knote.
fn concerns_us<L: Layout + Real>(call: &Call<L>, queue: Option<&Queue>) -> bool {
    let hidden = queue.map(Queue::hidden);
    (0..call.changes())
        .filter_map(|index| call.change(index))
        .any(|change| {
            let (ident, filter, _) = change.head();
            filter == abi::EVFILT_VNODE || hidden.is_some_and(|hidden| hidden.is(ident, filter))
        })
}

/// Returns the flags for the error slot of a refused change: simplified, unless the kernel refused the
/// change before it simplified them (`xnu: kevent_register`).
fn refused_flags(change: &Event) -> u16 {
    let given = change.flags & !abi::EV_SYSFLAGS;
    let vanish = abi::EV_ADD | abi::EV_DISPATCH2;
    if change.has(abi::EV_VANISHED) && given & vanish != vanish || change.filter >= 0 {
        return given;
    }
    change.simplified().flags
}

impl<L: Layout + Real> Eventlist for Call<L> {
    fn room(&self) -> usize {
        Call::room(self)
    }

    fn get(&self, index: usize) -> Option<Event> {
        self.event(index).map(|event| event.event())
    }

    fn shift(&mut self, from: usize, to: usize) {
        if let Some(event) = self.event(from) {
            self.put(to, event);
        }
    }

    fn merge(&mut self, index: usize, fflags: u32) {
        if let Some(event) = self.event(index) {
            let mut event = event;
            event.add_fflags(fflags);
            self.put(index, event);
        }
    }

    fn put(&mut self, index: usize, event: &Event) {
        Call::put(self, index, L::from_event(event));
    }
}

fn now() -> Timespec {
    clock_gettime(ClockId::Monotonic)
}

/// Returns what is left of `timeout`, or `None` when it is over.
fn remaining(start: Timespec, timeout: timespec) -> Option<timespec> {
    let now = now();
    let nanos = |sec: i64, nsec: i64| i128::from(sec) * 1_000_000_000 + i128::from(nsec);
    let spent = nanos(now.tv_sec, now.tv_nsec) - nanos(start.tv_sec, start.tv_nsec);
    let left = nanos(timeout.tv_sec, timeout.tv_nsec) - spent;
    if left <= 0 {
        return None;
    }
    Some(timespec {
        tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
    })
}
