//! Tests the steps of a call: slots, room, waiting.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use agentfs_interpose_shim::kqueue::abi::*;
use agentfs_testkq::wait_until_asleep;

use super::support::{
    AT_ONCE, Process, SOURCES, Source, brief, file, from_every_source, number, user, vnode, woken,
};

const WRITE: u32 = NOTE_WRITE;

fn trigger(ident: u64) -> Event {
    user(ident, EV_ADD | EV_CLEAR, NOTE_TRIGGER)
}

#[test]
fn slots_are_those_of_the_kernel_and_nothing_is_fetched() {
    from_every_source(|_, kq, post| {
        let files = [file(), file(), file()];
        kq.change(vnode(&files[0], EV_ADD | EV_CLEAR, WRITE))
            .unwrap();
        post(&files[0], WRITE);
        let changes = [
            vnode(&files[1], EV_ADD | EV_RECEIPT, WRITE),
            user(2, EV_ADD, 0),
            user(3, EV_DELETE, 5),
            vnode(&files[2], EV_ADD | EV_DELETE, WRITE),
            vnode(&files[2], EV_ENABLE | 0xF000, WRITE),
            vnode(&9999, EV_ADD, WRITE),
            vnode(&files[2], EV_ADD | EV_CLEAR, WRITE),
        ];
        let slots = kq.call(&changes, 8, None).unwrap();
        let seen: Vec<_> = slots.iter().map(|e| (e.ident, e.flags, e.data)).collect();
        assert_eq!(
            seen,
            [
                (number(&files[1]), EV_ADD | EV_RECEIPT | EV_ERROR, 0),
                (3, EV_DELETE | EV_ERROR, libc::ENOENT.into()),
                (number(&files[2]), EV_DELETE | EV_ERROR, libc::ENOENT.into()),
                (number(&files[2]), EV_ENABLE | EV_ERROR, libc::ENOENT.into()),
                (9999, EV_ADD | EV_ERROR, libc::EBADF.into()),
            ]
        );
        post(&files[2], WRITE);
        let heard = kq.brief();
        assert_eq!(heard.len(), 2, "the first post and the last: {heard:?}");
    });
}

#[test]
fn an_error_without_a_slot_ends_the_call_and_keeps_what_came_before() {
    from_every_source(|process, kq, post| {
        let files = [file(), file(), file()];
        let changes = [
            vnode(&files[0], EV_ADD | EV_CLEAR, WRITE),
            vnode(&files[1], EV_DELETE, WRITE),
            vnode(&files[2], EV_ADD | EV_CLEAR, WRITE),
        ];
        assert_eq!(kq.call(&changes, 0, None), Err(libc::ENOENT));
        assert_eq!(process.daemon().watches().len(), 1);
        post(&files[0], WRITE);
        post(&files[2], WRITE);
        assert_eq!(kq.brief().len(), 1);
    });
}

#[test]
fn a_receipt_without_a_slot_is_dropped() {
    let process = Process::new();
    let (kq, files) = (process.kqueue(), [file(), file()]);
    let add = |file| vnode(file, EV_ADD | EV_CLEAR | EV_RECEIPT, WRITE);
    let slots = kq.call(&[add(&files[0]), add(&files[1])], 1, None).unwrap();
    assert_eq!(slots.len(), 1);
    assert_eq!(process.daemon().watches().len(), 2);
}

#[test]
fn changelist_and_eventlist_may_be_the_same_array() {
    use agentfs_interpose_shim::kqueue::{Call, CallOptions};
    let process = Process::new();
    let (kq, files) = (process.kqueue(), [file(), file()]);
    let mut array = [
        Kevent::from_event(&vnode(&files[0], EV_DELETE, WRITE)),
        Kevent::from_event(&vnode(&files[1], EV_ADD | EV_RECEIPT, WRITE)),
    ];
    let at = array.as_mut_ptr();
    #[expect(unsafe_code, reason = "the call under test takes pointers")]
    // SAFETY: two structures each way.
    let call = unsafe {
        Call::new(
            kq.fd,
            (at, 2),
            (at, 2),
            CallOptions::waiting(std::ptr::null()),
        )
    };
    assert_eq!(process.engine.call(call), 2);
    let data: Vec<i64> = array.iter().map(|e| e.event().data).collect();
    assert_eq!(data, [libc::ENOENT.into(), 0]);
}

#[test]
fn no_room_returns_at_once_and_loses_nothing() {
    from_every_source(|_, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        post(&file, WRITE);
        assert_eq!(kq.call(&[], 0, None).unwrap(), []);
        assert_eq!(
            kq.call(&[vnode(&file, EV_ADD, WRITE)], 0, None).unwrap(),
            []
        );
        assert_eq!(kq.brief().len(), 1);
    });
}

#[test]
fn an_eventlist_of_one_gets_everything_in_turn() {
    from_every_source(|_, kq, post| {
        let files: Vec<_> = (0..5).map(|_| file()).collect();
        for file in &files {
            kq.change(vnode(file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        }
        kq.change(trigger(123)).unwrap();
        for file in &files {
            post(file, WRITE);
        }
        let mut heard = Vec::new();
        while kq.is_readable() {
            let events = kq.call(&[], 1, AT_ONCE).unwrap();
            assert!(events.len() <= 1);
            heard.extend(events.iter().map(|e| (e.filter, e.ident)));
        }
        heard.sort_unstable();
        heard.dedup();
        assert_eq!(heard.len(), 6, "{heard:?}");
    });
}

#[test]
fn each_knote_comes_once_per_call() {
    from_every_source(|_, kq, post| {
        let files: Vec<_> = (0..4).map(|_| file()).collect();
        for file in &files {
            kq.change(vnode(file, EV_ADD, WRITE)).unwrap();
            post(file, WRITE);
        }
        for _ in 0..3 {
            let mut idents: Vec<u64> = kq.ready().iter().map(|e| e.ident).collect();
            idents.sort_unstable();
            let mut expected: Vec<u64> = files.iter().map(number).collect();
            expected.sort_unstable();
            assert_eq!(idents, expected);
        }
    });
}

#[test]
fn level_triggered_knotes_do_not_starve_others() {
    let process = Process::new();
    let (kq, files) = (process.kqueue(), [file(), file()]);
    for file in &files {
        kq.change(vnode(file, EV_ADD, WRITE)).unwrap();
        process.post(Source::Daemon, file, WRITE);
    }
    kq.change(user(5, EV_ADD, NOTE_TRIGGER)).unwrap();
    let mut heard: Vec<u64> = (0..12)
        .flat_map(|_| kq.call(&[], 1, AT_ONCE).unwrap())
        .map(|event| event.ident)
        .collect();
    heard.sort_unstable();
    heard.dedup();
    assert_eq!(heard.len(), 3);
}

#[test]
fn other_filters_are_delivered_untouched_alongside() {
    from_every_source(|_, kq, post| {
        let file = file();
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"abc").unwrap();
        let mut socket = super::support::read(number(&reader), EV_ADD);
        socket.udata = 3;
        let mut own = user(123, EV_ADD | EV_CLEAR, NOTE_TRIGGER | 0x42);
        own.udata = 4;
        kq.call(
            &[socket, own, vnode(&file, EV_ADD | EV_CLEAR, WRITE)],
            0,
            None,
        )
        .unwrap();
        post(&file, WRITE);
        let mut events = kq.ready();
        events.sort_by_key(|e| e.filter);
        let seen: Vec<_> = events
            .iter()
            .map(|e| (e.ident, e.fflags, e.data, e.udata))
            .collect();
        assert_eq!(
            seen,
            [
                (123, 0x42, 0, 4),
                (number(&file), WRITE, 0, 0),
                (number(&reader), 0, 3, 3),
            ]
        );
    });
}

#[test]
fn a_program_that_takes_the_reserved_ident_keeps_it() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    let ours = process.daemon().idents.lock().unwrap()[0];
    assert_eq!(ours >> 32, 0xAFFE);
    assert_eq!(kq.change(user(ours, EV_DELETE, 0)), Err(libc::ENOENT));
    let moved = *process.daemon().idents.lock().unwrap().last().unwrap();
    assert_ne!(moved, ours);
    // With a leftover posted, the moved knote has to be triggered as well.
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    let mut theirs = user(moved, EV_ADD, NOTE_TRIGGER | 7);
    theirs.udata = 1;
    process.post(Source::Daemon, &file, WRITE);
    assert_eq!(kq.call(&[trigger(1), theirs], 0, None).unwrap(), []);
    let mut seen = Vec::new();
    for _ in 0..12 {
        seen.extend(brief(&kq.call(&[], 1, AT_ONCE).unwrap()));
    }
    assert!(seen.contains(&(moved, EV_ADD, 7)), "{seen:?}");
    assert!(
        seen.contains(&(number(&file), EV_ADD | EV_CLEAR, WRITE)),
        "{seen:?}"
    );
    kq.change(user(moved, EV_DELETE, 0)).unwrap();
    assert_eq!(kq.brief(), []);
    assert!(!kq.is_readable());
}

#[test]
fn bad_timeouts_are_refused_before_any_change() {
    use agentfs_interpose_shim::kqueue::{Call, CallOptions};
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    for (tv_sec, tv_nsec) in [(-1, 0), (0x8000_0000, 0), (0, -1), (0, 1_000_000_001)] {
        let timeout = libc::timespec { tv_sec, tv_nsec };
        let change = Kevent::from_event(&vnode(&file, EV_ADD, WRITE));
        #[expect(unsafe_code, reason = "the call under test takes pointers")]
        // SAFETY: one change, no room, a live timeout.
        let call = unsafe {
            let none = (std::ptr::null_mut(), 0);
            Call::new(
                kq.fd,
                (&raw const change, 1),
                none,
                CallOptions::waiting(&raw const timeout),
            )
        };
        assert_eq!(process.engine.call(call), -1);
        assert_eq!(super::support::errno(), libc::EINVAL);
    }
    assert_eq!(kq.change(vnode(&file, EV_DELETE, 0)), Err(libc::ENOENT));
    assert_eq!(process.daemon().open_queues(), 0);
}

#[test]
fn hidden_events_do_not_shorten_or_prolong_a_wait() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR | EV_DISABLE, WRITE))
        .unwrap();
    let wait = Duration::from_millis(60);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, Some(wait)).unwrap());
        wait_until_asleep(kq.fd, 1);
        // The event is for a disabled knote: the doorbell rings, and there is nothing for the
        // program.
        process.post(Source::Daemon, &file, WRITE);
        assert_eq!(woken(sleeper), []);
    });
    assert!(start.elapsed() >= wait);
    assert!(start.elapsed() < wait * 20);
}

#[test]
fn a_sleeper_without_timeout_wakes_and_gets_one_event() {
    for source in SOURCES {
        let process = Process::new();
        let (kq, file) = (process.kqueue(), file());
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| kq.call(&[], 4, None).unwrap());
            wait_until_asleep(kq.fd, 1);
            process.post(source, &file, WRITE);
            let events = woken(sleeper);
            assert_eq!(brief(&events), [(number(&file), EV_ADD | EV_CLEAR, WRITE)]);
        });
    }
}

#[test]
fn a_watch_added_while_another_thread_sleeps_wakes_that_thread() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    std::thread::scope(|scope| {
        // The program sleeps before the queue has any watch, so its call went straight to the
        // kernel.
        let sleeper = scope.spawn(|| kq.call(&[], 4, None).unwrap());
        wait_until_asleep(kq.fd, 1);
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        process.post(Source::Daemon, &file, WRITE);
        let events = woken(sleeper);
        assert_eq!(brief(&events), [(number(&file), EV_ADD | EV_CLEAR, WRITE)]);
    });
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
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let (kq, file) = (&kq, &file);
        scope.spawn(move || {
            #[expect(unsafe_code, reason = "names the thread for pthread_kill")]
            // SAFETY: no preconditions.
            let me = unsafe { libc::pthread_self() };
            sender.send((me, None)).unwrap();
            let result = kq.call(&[vnode(file, EV_ADD | EV_CLEAR, WRITE)], 4, None);
            sender.send((me, Some(result))).unwrap();
        });
        let (thread, _) = receiver.recv().unwrap();
        wait_until_asleep(kq.fd, 1);
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
    process.post(Source::Daemon, &file, WRITE);
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn errno_survives_a_successful_call() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    agentfs_interpose_shim::kqueue::Errno(42).set();
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process.post(Source::Daemon, &file, WRITE);
    assert_eq!(kq.brief().len(), 1);
    assert_eq!(super::support::errno(), 42);
}

#[test]
fn many_watches_in_one_changelist_are_one_request() {
    let process = Process::new();
    let kq = process.kqueue();
    let files: Vec<_> = (0..50).map(|_| file()).collect();
    let changes: Vec<_> = files
        .iter()
        .map(|f| vnode(f, EV_ADD | EV_CLEAR, WRITE))
        .collect();
    kq.call(&changes, 0, None).unwrap();
    assert_eq!(process.daemon().watches().len(), 50);
    assert_eq!(process.daemon().batches.load(Ordering::Relaxed), 1);
}

#[test]
fn files_elsewhere_and_no_daemon_cost_nothing() {
    let process = Process::new();
    process.daemon().refuses.store(true, Ordering::Relaxed);
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    assert_eq!(process.daemon().open_queues(), 0);
    process.post(Source::Kernel, &file, WRITE);
    assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, WRITE)]);
}
