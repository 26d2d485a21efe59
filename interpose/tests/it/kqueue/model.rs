//! Runs random programs against a model of kqueue, in which an event does not show whether the
//! kernel or the daemon posted it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::IntoRawFd;

use agentfs_interpose_shim::kqueue::abi::*;
use proptest::prelude::*;

use super::support::{AT_ONCE, Process, Source, file, number, user, vnode};

/// Bits that only the kernel posts, so that a test can distinguish which of two posts an event
/// holds.
const KERNEL_BITS: u32 = 0x0F;
/// Bits that only the daemon posts.
const DAEMON_BITS: u32 = 0xF0;

const FILES: usize = 4;
const NEVER_ADDED: u64 = 4000;

#[derive(Clone, Debug)]
enum Step {
    /// One call: changes, and room for slots and events.
    Call(Vec<(usize, u16, u32, u64)>, usize),
    /// A change of a file: the bits, and whether kernel or daemon notices the change.
    Post(usize, u32, bool),
    /// Closes the file and opens it again.
    Reopen(usize),
    /// Triggers the program's own knote.
    Trigger,
}

#[derive(Clone, Debug, Default)]
struct Knote {
    flags: u16,
    interest: u32,
    udata: u64,
    kernel: u32,
    daemon: u32,
    disabled: bool,
}

impl Knote {
    fn is_ready(&self) -> bool {
        !self.disabled && self.kernel | self.daemon != 0
    }
}

/// A simple model of kqueue(2).
#[derive(Debug, Default)]
struct Model {
    knotes: BTreeMap<u64, Knote>,
}

impl Model {
    fn change(&mut self, change: &Event) -> Result<(), i32> {
        let change = change.simplified();
        if change.ident == NEVER_ADDED {
            let adds = change.has(EV_ADD);
            return Err(if adds { libc::EBADF } else { libc::ENOENT });
        }
        let Some(knote) = self.knotes.get_mut(&change.ident) else {
            if !change.has(EV_ADD) {
                return Err(libc::ENOENT);
            }
            let knote = Knote {
                flags: change.flags,
                interest: change.fflags,
                udata: change.udata,
                disabled: change.has(EV_DISABLE),
                ..Knote::default()
            };
            self.knotes.insert(change.ident, knote);
            return Ok(());
        };
        if change.has(EV_DELETE) {
            self.knotes.remove(&change.ident);
            return Ok(());
        }
        knote.interest = change.fflags;
        knote.udata = change.udata;
        if change.has(EV_DISABLE) {
            knote.disabled = true;
        } else if change.has(EV_ENABLE) {
            knote.disabled = false;
        }
        Ok(())
    }

    /// Returns the slots of a changelist, or the error that ended it.
    fn changes(&mut self, changes: &[Event], room: usize) -> Result<Vec<Event>, i32> {
        let mut slots = Vec::new();
        for change in changes {
            let result = self.change(change);
            if result.is_ok() && change.flags & EV_RECEIPT == 0 {
                continue;
            }
            if slots.len() == room {
                result?;
                continue;
            }
            slots.push(Event {
                flags: change.simplified().flags | EV_ERROR,
                data: result.err().unwrap_or(0).into(),
                ..*change
            });
        }
        Ok(slots)
    }

    fn post(&mut self, ident: u64, hint: u32, by_daemon: bool) {
        if let Some(knote) = self.knotes.get_mut(&ident)
            && knote.interest & hint != 0
        {
            *(if by_daemon {
                &mut knote.daemon
            } else {
                &mut knote.kernel
            }) |= hint;
        }
    }

    /// Accepts an event that the program got, if a kqueue could have given it: all bits of the knote, or,
    /// when the kernel had no room for its own, those of the daemon.
    fn delivered(&mut self, event: &Event, full: bool) -> Result<(), TestCaseError> {
        let Some(knote) = self.knotes.get_mut(&event.ident) else {
            return Err(TestCaseError::fail(format!("no such knote: {event:?}")));
        };
        prop_assert!(knote.is_ready(), "{knote:?} gave {event:?}");
        let all = knote.kernel | knote.daemon;
        let daemons_only = full && knote.daemon != 0 && event.fflags == knote.daemon;
        prop_assert!(
            event.fflags == all || daemons_only,
            "{knote:?} gave {event:?}"
        );
        let expected = Event {
            ident: event.ident,
            filter: EVFILT_VNODE,
            flags: knote.flags,
            fflags: event.fflags,
            udata: knote.udata,
            ..Event::default()
        };
        prop_assert_eq!(*event, expected);
        if knote.flags & EV_ONESHOT != 0 {
            self.knotes.remove(&event.ident);
            return Ok(());
        }
        if knote.flags & EV_CLEAR != 0 {
            knote.daemon = 0;
            if event.fflags == all {
                knote.kernel = 0;
            }
        }
        knote.disabled |= knote.flags & EV_DISPATCH != 0;
        Ok(())
    }
}

/// Compares the model with a program, a kernel and a daemon.
fn check(steps: &[Step]) -> Result<(), TestCaseError> {
    let process = Process::new();
    let kq = process.kqueue();
    let mut files: Vec<Option<File>> = (0..FILES).map(|_| Some(file())).collect();
    let mut model = Model::default();
    let mut triggered = false;
    kq.change(user(1, EV_ADD | EV_CLEAR, 0)).unwrap();
    for step in steps {
        match step {
            Step::Post(index, hint, by_daemon) => {
                let file = files[*index].as_ref().unwrap();
                let (source, mask) = match by_daemon {
                    true => (Source::Daemon, DAEMON_BITS),
                    false => (Source::Kernel, KERNEL_BITS),
                };
                process.post(source, file, hint & mask);
                model.post(number(file), hint & mask, *by_daemon);
            }
            Step::Reopen(index) => {
                let old = files[*index].take().unwrap();
                model.knotes.remove(&number(&old));
                process.close(old.into_raw_fd());
                files[*index] = Some(file());
            }
            Step::Trigger => {
                kq.change(user(1, 0, NOTE_TRIGGER)).unwrap();
                triggered = true;
            }
            Step::Call(changes, room) => {
                let changes: Vec<Event> = changes
                    .iter()
                    .map(|(index, flags, fflags, udata)| {
                        let file = files.get(*index).map(|file| file.as_ref().unwrap());
                        let ident = file.map_or(NEVER_ADDED, number);
                        Event {
                            ident,
                            udata: *udata,
                            ..vnode(&0, *flags, *fflags)
                        }
                    })
                    .collect();
                let result = kq.call(&changes, *room, AT_ONCE);
                let slots = model.changes(&changes, *room);
                match slots {
                    Ok(slots) if slots.is_empty() && *room > 0 => {
                        let events = result.unwrap();
                        compare(&mut model, &mut triggered, &events, *room)?;
                    }
                    slots => prop_assert_eq!(result, slots),
                }
            }
        }
        let waits = triggered || model.knotes.values().any(Knote::is_ready);
        prop_assert!(
            kq.is_readable() || !waits,
            "something waits and poll does not say so"
        );
    }
    // All events that are left come out, and no others.
    let events = kq.ready();
    compare(&mut model, &mut triggered, &events, 64)?;
    drop(kq);
    for file in files.into_iter().flatten() {
        process.close(file.into_raw_fd());
    }
    Ok(())
}

fn compare(
    model: &mut Model,
    triggered: &mut bool,
    events: &[Event],
    room: usize,
) -> Result<(), TestCaseError> {
    prop_assert!(events.len() <= room);
    let waiting = model
        .knotes
        .values()
        .filter(|knote| knote.is_ready())
        .count();
    let waiting = waiting + usize::from(*triggered);
    // Hidden knotes are in the kernel's queue, too: room for all means room for them as well.
    let full = room < waiting + 2;
    if !full {
        prop_assert_eq!(events.len(), waiting, "{:?} gave {:?}", model, events);
    }
    let mut idents: Vec<u64> = events.iter().map(|event| event.ident).collect();
    idents.sort_unstable();
    idents.dedup();
    prop_assert_eq!(idents.len(), events.len(), "each knote once");
    for event in events {
        if event.filter == EVFILT_USER {
            prop_assert!(std::mem::take(triggered));
            prop_assert_eq!(event.ident, 1);
        } else {
            model.delivered(event, full)?;
        }
    }
    Ok(())
}

fn flags() -> impl Strategy<Value = u16> {
    let behaviour = prop::sample::select(vec![
        0,
        EV_CLEAR,
        EV_CLEAR,
        EV_ONESHOT,
        EV_DISPATCH,
        EV_DISPATCH | EV_CLEAR,
    ]);
    let action = prop::sample::select(vec![
        EV_ADD,
        EV_ADD,
        EV_ADD,
        EV_ADD | EV_DISABLE,
        EV_ADD | EV_ENABLE,
        EV_ENABLE,
        EV_ENABLE,
        EV_DISABLE,
        EV_DELETE,
        EV_ADD | EV_DELETE,
        0,
    ]);
    let receipt = prop::sample::select(vec![0, 0, 0, EV_RECEIPT]);
    (behaviour, action, receipt).prop_map(|(a, b, c)| a | b | c)
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..=FILES, flags(), 0..=0xFF_u32, 0..4_u64);
    let room = prop::sample::select(vec![0, 1, 2, 3, 16, 16, 16]);
    prop_oneof![
        4 => (prop::collection::vec(change, 0..4), room).prop_map(|(c, r)| Step::Call(c, r)),
        5 => (0..FILES, 1..=0xFF_u32, any::<bool>()).prop_map(|(i, h, d)| Step::Post(i, h, d)),
        1 => (0..FILES).prop_map(Step::Reopen),
        1 => Just(Step::Trigger),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_hooked_queue_is_a_kqueue(steps in prop::collection::vec(step(), 1..40)) {
        check(&steps)?;
    }
}
