//! Tests the steps of one call.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use agentfs_testkq::abi::*;
use agentfs_testkq::{close, kevent, kevent64, wait_until_asleep};

use crate::support::{Kq, NOTHING, post, user, vnode, woken};

fn trigger(ident: usize) -> Kevent {
    user(ident, EV_ADD | EV_CLEAR, NOTE_TRIGGER)
}

#[test]
fn receipts_and_errors_fill_slots_in_order_and_nothing_is_fetched() {
    let kq = Kq::new();
    kq.change(trigger(9)).unwrap();
    let changes = [
        user(1, EV_ADD | EV_RECEIPT, 0),
        user(2, EV_ADD, 0),
        user(3, EV_DELETE, 5),
        user(4, EV_ADD | EV_RECEIPT | 0xF000, 0),
    ];
    let slots = kq.call(&changes, 8, None).unwrap();
    let brief: Vec<_> = slots.iter().map(|e| (e.ident, e.flags, e.data)).collect();
    assert_eq!(
        brief,
        [
            (1, EV_ADD | EV_RECEIPT | EV_ERROR, 0),
            (3, EV_DELETE | EV_ERROR, libc::ENOENT as isize),
            (4, EV_ADD | EV_RECEIPT | EV_ERROR, 0),
        ]
    );
    assert_eq!(kq.brief().len(), 1, "the triggered knote is still there");
    kq.change(user(2, EV_DELETE, 0)).unwrap();
}

#[test]
fn an_error_without_a_slot_ends_the_call_but_not_what_came_before() {
    let kq = Kq::new();
    let changes = [
        user(1, EV_ADD, 0),
        user(2, EV_DELETE, 0),
        user(3, EV_ADD, 0),
    ];
    assert_eq!(kq.call(&changes, 0, None), Err(libc::ENOENT));
    kq.change(user(1, EV_DELETE, 0)).unwrap();
    assert_eq!(kq.change(user(3, EV_DELETE, 0)), Err(libc::ENOENT));
}

#[test]
fn a_receipt_without_a_slot_is_dropped() {
    let kq = Kq::new();
    let changes = [
        user(1, EV_ADD | EV_RECEIPT, 0),
        user(2, EV_ADD | EV_RECEIPT, 0),
    ];
    assert_eq!(kq.call(&changes, 1, None).unwrap().len(), 1);
    kq.change(user(2, EV_DELETE, 0)).unwrap();
}

#[test]
fn no_room_returns_at_once_whatever_the_timeout() {
    let kq = Kq::new();
    assert_eq!(kq.call(&[trigger(1)], 0, None).unwrap(), []);
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn oldest_activation_first_and_each_knote_once_per_call() {
    let kq = Kq::new();
    for ident in [3, 1, 2] {
        kq.change(user(ident, EV_ADD, NOTE_TRIGGER)).unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..2 {
        order.extend(kq.call(&[], 2, NOTHING).unwrap().iter().map(|e| e.ident));
    }
    assert_eq!(order, [3, 1, 2, 3], "what stays active goes to the end");
    assert_eq!(kq.ready().len(), 3);
}

#[test]
fn the_timeout_is_checked_first() {
    let kq = Kq::new();
    for (tv_sec, tv_nsec) in [(-1, 0), (0x8000_0000, 0), (0, -1), (0, 1_000_000_001)] {
        let timeout = libc::timespec { tv_sec, tv_nsec };
        let change = user(1, EV_ADD, 0);
        #[expect(unsafe_code, reason = "the call under test takes pointers")]
        // SAFETY: one change, no room, a live timeout.
        let count = unsafe {
            kevent(
                kq.0,
                &raw const change,
                1,
                std::ptr::null_mut(),
                0,
                &raw const timeout,
            )
        };
        assert_eq!(count, -1);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EINVAL)
        );
    }
    assert_eq!(kq.change(user(1, EV_DELETE, 0)), Err(libc::ENOENT));
}

#[test]
fn a_finite_timeout_ends_with_nothing() {
    let kq = Kq::new();
    let start = Instant::now();
    assert_eq!(
        kq.call(&[], 1, Some(Duration::from_millis(20))).unwrap(),
        []
    );
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn the_first_call_fixes_the_flavour() {
    let kq = Kq::new();
    kq.change(user(1, EV_ADD, 0)).unwrap();
    #[expect(unsafe_code, reason = "the call under test takes pointers")]
    // SAFETY: no changes and no room.
    let count = unsafe {
        kevent64(
            kq.0,
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
            0,
            0,
            std::ptr::null(),
        )
    };
    assert_eq!(count, -1);
    assert_eq!(
        std::io::Error::last_os_error().raw_os_error(),
        Some(libc::EINVAL)
    );
}

#[test]
fn kevent64_returns_ext_as_created_and_honours_its_flags() {
    let kq = Kq::new();
    let change = Kevent64 {
        ident: 1,
        filter: EVFILT_USER,
        flags: EV_ADD,
        fflags: NOTE_TRIGGER,
        ext: [3, 4],
        ..Kevent64::default()
    };
    let mut event = Kevent64::default();
    let mut call = |changes: i32, flags: u32| {
        #[expect(unsafe_code, reason = "the call under test takes pointers")]
        // SAFETY: at most one change, room for one event.
        unsafe {
            kevent64(
                kq.0,
                &raw const change,
                changes,
                &raw mut event,
                1,
                flags,
                std::ptr::null(),
            )
        }
    };
    assert_eq!(call(0, KEVENT_FLAG_IMMEDIATE), 0);
    assert_eq!(call(1, KEVENT_FLAG_ERROR_EVENTS), 0);
    assert_eq!(call(0, 0), 1);
    assert_eq!(event.ext, [3, 4]);
}

#[test]
fn not_a_queue_is_ebadf() {
    assert_eq!(Kq(-1).call(&[], 0, None), Err(libc::EBADF));
}

#[test]
fn a_post_wakes_a_sleeper() {
    let (kq, file) = (Kq::new(), tempfile::tempfile().unwrap());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, NOTE_WRITE))
        .unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, None).unwrap().len());
        wait_until_asleep(kq.0, 1);
        post(&file, NOTE_WRITE);
        assert_eq!(woken(sleeper), 1);
    });
}

#[test]
fn closing_the_queue_gives_the_sleeper_ebadf() {
    let kq = Kq::new();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, None));
        wait_until_asleep(kq.0, 1);
        close(kq.0);
        assert_eq!(woken(sleeper), Err(libc::EBADF));
    });
    let _closed = std::mem::ManuallyDrop::new(kq);
}

extern "C" fn ignore(_: libc::c_int) {}

#[expect(unsafe_code, reason = "installs a signal handler")]
fn install_handler() {
    // SAFETY: sigaction is plain data, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does nothing; `action` is a live sigaction.
    unsafe { libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()) };
}

#[test]
fn a_signal_ends_the_wait_with_eintr_after_the_changes() {
    install_handler();
    let kq = Kq::new();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let kq = &kq;
        scope.spawn(move || {
            #[expect(unsafe_code, reason = "names the thread for pthread_kill")]
            // SAFETY: no preconditions.
            let me = unsafe { libc::pthread_self() };
            sender.send((me, None)).unwrap();
            let result = kq.call(&[user(1, EV_ADD, 0)], 4, None);
            sender.send((me, Some(result))).unwrap();
        });
        let (thread, _) = receiver.recv().unwrap();
        wait_until_asleep(kq.0, 1);
        // The count rises just before the thread sleeps: a signal may come too early to be felt.
        let result = loop {
            #[expect(unsafe_code, reason = "signals one thread")]
            // SAFETY: the thread has not ended: it waits for a signal.
            unsafe {
                libc::pthread_kill(thread, libc::SIGUSR2)
            };
            if let Ok((_, result)) = receiver.recv_timeout(Duration::from_millis(50)) {
                break result;
            }
        };
        assert_eq!(result, Some(Err(libc::EINTR)));
    });
    kq.change(user(1, EV_DELETE, 0)).unwrap();
}
