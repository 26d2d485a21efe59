//! What a program finds in its eventlist: the kernel's events without the hidden ones, with posted bits in
//! them, and posted events behind them. The code makes no system call: it asks its caller for what must
//! happen in the kernel.

use super::abi::{self, Event};
use super::daemon::WatchOp;
use super::kernel::Errno;
use super::knote::{Arrival, Confirm, Knotes, Moment};

/// The program's eventlist.
pub(crate) trait Eventlist {
    /// Returns how many events fit.
    fn room(&self) -> usize;
    /// Returns the event number `index`.
    fn get(&self, index: usize) -> Option<Event>;
    /// Moves an event to a lower number.
    fn shift(&mut self, from: usize, to: usize);
    /// Adds bits to the fflags of the event number `index`.
    fn merge(&mut self, index: usize, fflags: u32);
    /// Writes the event number `index`.
    fn put(&mut self, index: usize, event: &Event);
}

/// The idents of the knotes that the shim has put into the program's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HiddenIdents {
    /// The ident of the EVFILT_USER knote.
    pub(crate) user: u64,
    /// The ident of the EVFILT_READ knote: the doorbell.
    pub(crate) doorbell: Option<u64>,
    /// The ident of the EVFILT_VNODE knote on the directory where a new daemon makes its socket.
    pub(crate) restart: Option<u64>,
}

/// Which hidden events there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct HiddenEvents {
    /// The doorbell is readable.
    pub(crate) doorbell: bool,
    /// The doorbell's other end is closed.
    pub(crate) closed: bool,
    /// A new daemon may be there.
    pub(crate) restart: bool,
}

impl HiddenIdents {
    /// Returns whether a change or event with this ident and filter concerns a hidden knote.
    #[inline]
    pub(crate) fn is(&self, ident: u64, filter: i16) -> bool {
        match filter {
            abi::EVFILT_USER => ident == self.user,
            abi::EVFILT_READ => Some(ident) == self.doorbell,
            abi::EVFILT_VNODE => Some(ident) == self.restart,
            _ => false,
        }
    }
}

/// Takes the hidden events out of the first `count`. Returns how many events are left, and which hidden
/// ones there were.
pub(crate) fn strip(
    list: &mut impl Eventlist,
    count: usize,
    hidden: HiddenIdents,
) -> (usize, HiddenEvents) {
    let mut found = HiddenEvents::default();
    let mut kept = 0;
    for index in 0..count {
        let Some(event) = list.get(index) else {
            break;
        };
        if hidden.is(event.ident, event.filter) {
            found.restart |= event.filter == abi::EVFILT_VNODE;
            found.doorbell |= event.filter == abi::EVFILT_READ;
            found.closed |= event.filter == abi::EVFILT_READ && event.has(abi::EV_EOF);
            continue;
        }
        if kept != index {
            list.shift(index, kept);
        }
        kept += 1;
    }
    (kept, found)
}

/// Adds posted bits to the `count` events of a call to the kernel made at `since`, and appends the posted
/// events of other knotes, as far as there is room. Each knote has one event. Returns the number of
/// events.
pub(crate) fn merge(
    list: &mut impl Eventlist,
    (count, since): (usize, Moment),
    knotes: &mut Knotes,
    mut confirm: impl FnMut(&Event, Confirm) -> Result<(), Errno>,
    mut enqueue: impl FnMut(WatchOp),
) -> usize {
    knotes.begin_delivery();
    let mut kept = 0;
    for index in 0..count {
        let Some(event) = list.get(index) else {
            break;
        };
        let mut bits = 0;
        if event.filter == abi::EVFILT_VNODE {
            let Arrival::Event(posted, op) = knotes.delivered_by_kernel(&event, since) else {
                continue;
            };
            bits = posted;
            op.map(&mut enqueue);
        }
        if kept != index {
            list.shift(index, kept);
        }
        if bits != 0 {
            list.merge(kept, bits);
        }
        kept += 1;
    }
    let mut count = kept;
    while count < list.room() {
        let Some((index, wanted)) = knotes.next_ready() else {
            break;
        };
        let Some(knote) = knotes.get(index) else {
            break;
        };
        match confirm(&knote.registered, wanted) {
            Ok(()) => {
                if let Some((event, op)) = knotes.deliver(index) {
                    list.put(count, &event);
                    count += 1;
                    op.map(&mut enqueue);
                }
            }
            // The file was closed where no hook saw it.
            Err(Errno(libc::ENOENT | libc::EBADF)) if wanted != Confirm::Delete => {
                knotes.forget(index).map(&mut enqueue);
            }
            // The knote was one-shot and is gone: another thread holds the kernel's event of it, and will
            // find the bits here.
            Err(_) => knotes.set_aside(index),
        }
    }
    count
}
