//! Tests a daemon that goes and comes back.

use agentfs_interpose_shim::kqueue::abi::*;
use agentfs_proto::record::Kind;
use agentfs_testkq::wait_until_asleep;

use super::support::{Process, Source, file, number, vnode, woken};

const WRITE: u32 = NOTE_WRITE;
const DELETE: u32 = 0x01;

#[test]
fn without_its_daemon_a_queue_goes_on_with_real_events() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process.post(Source::Daemon, &file, WRITE);
    process.daemon().die();
    assert_eq!(kq.brief().len(), 1, "what was published stays readable");
    assert_eq!(kq.brief(), []);
    assert!(
        !kq.is_readable(),
        "a closed doorbell does not ring for ever"
    );
    assert_eq!(process.daemon().lost.lock().unwrap().len(), 1);
    process.post(Source::Kernel, &file, WRITE);
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn a_sleeper_sleeps_on_when_the_daemon_dies() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, None).unwrap());
        wait_until_asleep(kq.fd, 1);
        process.daemon().die();
        process.post(Source::Kernel, &file, WRITE);
        assert_eq!(woken(sleeper).len(), 1);
    });
}

#[test]
fn a_daemon_that_comes_back_gets_every_watch_and_each_knote_is_told_to_look() {
    let process = Process::new();
    let (kq, files) = (process.kqueue(), [file(), file()]);
    for (file, fflags) in files.iter().zip([WRITE, DELETE]) {
        kq.change(vnode(file, EV_ADD | EV_CLEAR, fflags)).unwrap();
    }
    process.daemon().die();
    assert_eq!(kq.brief(), []);
    kq.change(vnode(&files[1], EV_ADD, DELETE | WRITE)).unwrap();
    process.daemon().come_back();
    process.engine.reconnect();
    let bits: Vec<u32> = process.daemon().watches().iter().map(|w| w.1).collect();
    assert_eq!(bits, [WRITE, DELETE | WRITE]);
    assert!(kq.is_readable());
    let mut got = kq.brief();
    got.sort_unstable();
    let flags = EV_ADD | EV_CLEAR;
    let mut expected = [
        (number(&files[0]), flags, WRITE),
        (number(&files[1]), flags, WRITE),
    ];
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(kq.brief(), [], "once");
    process.post(Source::Daemon, &files[1], DELETE);
    assert_eq!(kq.brief(), [(number(&files[1]), flags, DELETE)]);
}

#[test]
fn a_reconnection_wakes_a_sleeper() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, None).unwrap());
        wait_until_asleep(kq.fd, 1);
        process.engine.reconnect();
        assert_eq!(woken(sleeper).len(), 1);
    });
}

#[test]
fn an_overflow_record_tells_every_knote_to_look() {
    let process = Process::new();
    let (kq, files) = (process.kqueue(), [file(), file()]);
    for file in &files {
        kq.change(vnode(file, EV_ADD | EV_CLEAR, DELETE)).unwrap();
    }
    process.daemon().push(Kind::OVERFLOW, 0, 0);
    let got: Vec<u32> = kq.brief().iter().map(|e| e.2).collect();
    assert_eq!(got, [WRITE, WRITE]);
}

#[test]
fn records_that_say_nothing_are_passed_over() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process.daemon().push(Kind::IGNORED, 0, WRITE);
    process.daemon().push(Kind::MODIFIED, u64::MAX, WRITE);
    assert_eq!(kq.brief(), []);
    process.post(Source::Daemon, &file, WRITE);
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn a_sleeper_hears_that_the_daemon_is_back() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    let directory = std::fs::File::open(".").unwrap();
    *process.daemon().restart_directory.lock().unwrap() = Some(directory.try_clone().unwrap());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process.daemon().die();
    assert_eq!(kq.brief(), []);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, None).unwrap());
        wait_until_asleep(kq.fd, 1);
        // Another file is made in the directory: the program sleeps on.
        process.post(Source::Kernel, &directory, WRITE);
        process.daemon().come_back();
        process.post(Source::Kernel, &directory, WRITE);
        let events = woken(sleeper);
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].ident, events[0].fflags), (number(&file), WRITE));
    });
    assert_eq!(process.daemon().watches().len(), 1);
    process.post(Source::Kernel, &directory, WRITE);
    assert_eq!(kq.brief(), [], "nobody waits for the daemon any more");
}
