//! The algorithm of one call (`xnu: bsd/kern/kern_event.c`), step by step as kqueue(2) users see it.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;

use crate::abi::{self, Layout};
use crate::queue_table;

/// How long a call may wait for its first event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Timeout {
    Forever,
    None,
    /// A timeout as given, not yet checked.
    Given(Timespec),
}

/// When a call stops waiting.
#[derive(Clone, Copy)]
enum Deadline {
    Never,
    At(Instant),
}

/// Where changes come from and events go to. Both may be the same memory.
pub(crate) trait Buffers<L> {
    /// Returns the change number `index`, if there is one; fails with EFAULT when it cannot be read.
    fn change(&self, index: usize) -> Result<Option<L>, Errno>;
    /// Returns the room for events.
    fn room(&self) -> usize;
    /// Writes the event number `index`.
    fn put(&mut self, index: usize, event: L);
}

/// Makes one call of the family.
pub(crate) fn run<L: Layout>(
    kq: RawFd,
    buffers: &mut impl Buffers<L>,
    timeout: Timeout,
    errors_only: bool,
) -> Result<usize, Errno> {
    let deadline = deadline(timeout)?;
    let queue = queue_table::find(kq).ok_or(Errno::BADF)?;
    queue.latch(L::FLAVOUR)?;

    let mut slots = 0;
    let mut index = 0;
    while let Some(change) = buffers.change(index)? {
        index += 1;
        let mut change: abi::Event = change.into();
        change.flags &= !abi::EV_SYSFLAGS;
        let wants_receipt = change.flags & abi::EV_RECEIPT != 0;
        let result = queue.register(&mut change);
        if result.is_ok() && !wants_receipt {
            continue;
        }
        if slots < buffers.room() {
            change.flags |= abi::EV_ERROR;
            change.data = result.err().map_or(0, |errno| errno.raw_os_error().into());
            buffers.put(slots, change.into());
            slots += 1;
        } else {
            result?;
        }
    }
    if slots > 0 || buffers.room() == 0 || errors_only {
        return Ok(slots);
    }
    loop {
        let mut count = 0;
        let found = queue.scan(buffers.room(), |event| {
            buffers.put(count, event.into());
            count += 1;
        })?;
        if found > 0 {
            return Ok(found);
        }
        let left = match deadline {
            Deadline::Never => None,
            Deadline::At(at) => match at.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return Ok(0),
                left => Timespec::try_from(left).ok(),
            },
        };
        queue.sleep(left.as_ref())?;
    }
}

fn deadline(timeout: Timeout) -> Result<Deadline, Errno> {
    let now = Instant::now();
    match timeout {
        Timeout::Forever => Ok(Deadline::Never),
        Timeout::None => Ok(Deadline::At(now)),
        Timeout::Given(Timespec { tv_sec, tv_nsec }) => {
            let seconds = u32::try_from(tv_sec).map_err(|_| Errno::INVAL)?;
            let nanos = u32::try_from(tv_nsec).map_err(|_| Errno::INVAL)?;
            if seconds > 0x7FFF_FFFF || nanos > 1_000_000_000 {
                return Err(Errno::INVAL);
            }
            let wait = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanos.into());
            Ok(now.checked_add(wait).map_or(Deadline::Never, Deadline::At))
        }
    }
}
