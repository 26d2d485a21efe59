//! Tests the three structures of events.

use agentfs_interpose_shim::kqueue::abi::*;
use agentfs_interpose_shim::kqueue::{Call, CallOptions, Real};

use super::support::{AT_ONCE, Kq, Process, SOURCES, errno, file, vnode};

const WRITE: u32 = NOTE_WRITE;

fn delivers<L: Layout + Real>(expected: impl Fn(Event) -> Event) {
    for source in SOURCES {
        let process = Process::new();
        let (kq, file) = (process.kqueue(), file());
        let add = Event {
            udata: 0x1234_5678_9ABC,
            qos: 5,
            ext: [1, 2, 3, 4],
            data: 9,
            ..vnode(&file, EV_ADD | EV_CLEAR, WRITE)
        };
        kq.call_as::<L>(&[add], 0, AT_ONCE).unwrap();
        process.post(source, &file, WRITE);
        let events = kq.call_as::<L>(&[], 4, AT_ONCE).unwrap_or_default();
        assert_eq!(events, [expected(Event { data: 0, ..add })]);
    }
}

#[test]
fn kevent_returns_what_it_can_hold() {
    delivers::<Kevent>(|event| Event {
        qos: 0,
        ext: [0; 4],
        ..event
    });
}

#[test]
fn kevent64_returns_ext_as_registered() {
    delivers::<Kevent64>(|event| Event {
        qos: 0,
        ext: [1, 2, 0, 0],
        ..event
    });
}

/// Makes a call that returns at once. kevent_qos has no timeout, only a flag.
fn immediately(kq: &Kq<'_>, changes: &[KeventQos], events: &mut [KeventQos]) -> i32 {
    let options = CallOptions {
        flags: KEVENT_FLAG_IMMEDIATE,
        ..CallOptions::waiting(std::ptr::null())
    };
    #[expect(unsafe_code, reason = "the call under test takes pointers")]
    // SAFETY: the lengths are those of the slices.
    let call = unsafe {
        Call::new(
            kq.fd,
            (changes.as_ptr(), changes.len().try_into().unwrap()),
            (events.as_mut_ptr(), events.len().try_into().unwrap()),
            options,
        )
    };
    kq.process.engine.call(call)
}

#[test]
fn kevent_qos_returns_qos_and_ext_as_registered() {
    for source in SOURCES {
        let process = Process::new();
        let (kq, file) = (process.kqueue(), file());
        let add = KeventQos {
            qos: 7,
            ext: [1, 2, 3, 4],
            xflags: 3,
            ..KeventQos::from_event(&vnode(&file, EV_ADD | EV_CLEAR, WRITE))
        };
        assert_eq!(immediately(&kq, &[add], &mut []), 0);
        let mut events = [KeventQos::default(); 2];
        assert_eq!(immediately(&kq, &[], &mut events), 0);
        process.post(source, &file, WRITE);
        assert_eq!(immediately(&kq, &[], &mut events), 1);
        assert_eq!(events[0], KeventQos { xflags: 0, ..add });
    }
}

#[test]
fn the_first_call_fixes_the_family_and_the_hidden_knotes_follow() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    let add = vnode(&file, EV_ADD | EV_CLEAR, WRITE);
    kq.call_as::<Kevent64>(&[add], 0, AT_ONCE).unwrap();
    assert_eq!(kq.call_as::<Kevent>(&[], 1, AT_ONCE), Err(libc::EINVAL));
    assert_eq!(kq.call_as::<Kevent>(&[add], 1, AT_ONCE), Err(libc::EINVAL));
    process
        .daemon()
        .post(std::os::fd::AsRawFd::as_raw_fd(&file), WRITE);
    assert_eq!(
        kq.call_as::<Kevent64>(&[], 4, AT_ONCE)
            .unwrap_or_default()
            .len(),
        1
    );
}

#[test]
fn kevent64_with_error_events_never_fetches() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    let add = Kevent64::from_event(&vnode(&file, EV_ADD | EV_CLEAR, WRITE));
    let mut events = [Kevent64::default(); 2];
    let options = CallOptions {
        flags: KEVENT_FLAG_ERROR_EVENTS,
        ..CallOptions::waiting(std::ptr::null())
    };
    for _ in 0..2 {
        #[expect(unsafe_code, reason = "the call under test takes pointers")]
        // SAFETY: one change, room for two.
        let call = unsafe {
            Call::new(
                kq.fd,
                (&raw const add, 1),
                (events.as_mut_ptr(), 2),
                options,
            )
        };
        assert_eq!(process.engine.call(call), 0, "errno {}", errno());
        process
            .daemon()
            .post(std::os::fd::AsRawFd::as_raw_fd(&file), WRITE);
    }
    assert_eq!(
        kq.call_as::<Kevent64>(&[], 4, AT_ONCE)
            .unwrap_or_default()
            .len(),
        1
    );
}
