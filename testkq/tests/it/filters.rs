//! Tests the filters beside EVFILT_VNODE.

use std::io::{Read, Write};
use std::time::Duration;

use agentfs_testkq::abi::*;
use agentfs_testkq::post_signal;

use crate::support::{Kq, number};

fn change(ident: usize, filter: i16, flags: u16, fflags: u32, data: isize) -> Kevent {
    Kevent {
        ident,
        filter,
        flags,
        fflags,
        data,
        ..Kevent::default()
    }
}

#[test]
fn read_is_level_triggered_and_counts_bytes() {
    let kq = Kq::new();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    kq.change(change(number(&reader), EVFILT_READ, EV_ADD, 0, 0))
        .unwrap();
    assert_eq!(kq.brief(), []);
    writer.write_all(b"abc").unwrap();
    for _ in 0..2 {
        let events = kq.ready();
        assert_eq!(events.len(), 1);
        let data = events[0].data;
        assert_eq!(data, 3);
    }
    reader.read_exact(&mut [0; 3]).unwrap();
    assert_eq!(kq.brief(), []);
    drop(writer);
    assert_eq!(kq.brief(), [(number(&reader), EV_ADD | EV_EOF, 0)]);
}

#[test]
fn read_with_clear_tells_each_arrival_once() {
    let kq = Kq::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    kq.change(change(
        number(&reader),
        EVFILT_READ,
        EV_ADD | EV_CLEAR,
        0,
        0,
    ))
    .unwrap();
    for _ in 0..2 {
        writer.write_all(b"x").unwrap();
        assert!(kq.is_readable());
        assert_eq!(kq.brief().len(), 1);
        assert_eq!(kq.brief(), []);
    }
}

#[test]
fn disabled_read_is_silent_and_comes_back() {
    let kq = Kq::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"x").unwrap();
    let fd = number(&reader);
    kq.change(change(fd, EVFILT_READ, EV_ADD | EV_DISPATCH, 0, 0))
        .unwrap();
    assert_eq!(kq.brief().len(), 1);
    assert_eq!(kq.brief(), []);
    assert!(!kq.is_readable());
    kq.change(change(fd, EVFILT_READ, EV_ENABLE, 0, 0)).unwrap();
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn write_tells_that_there_is_room() {
    let kq = Kq::new();
    let (_reader, writer) = std::io::pipe().unwrap();
    kq.change(change(number(&writer), EVFILT_WRITE, EV_ADD, 0, 0))
        .unwrap();
    assert_eq!(kq.brief(), [(number(&writer), EV_ADD, 0)]);
}

#[test]
fn timers_fire_with_a_count() {
    let kq = Kq::new();
    kq.change(change(
        1,
        EVFILT_TIMER,
        EV_ADD | EV_ONESHOT,
        NOTE_USECONDS,
        500,
    ))
    .unwrap();
    let events = kq.call(&[], 1, Some(Duration::from_secs(10))).unwrap();
    assert_eq!(events.len(), 1);
    let (filter, data) = (events[0].filter, events[0].data);
    assert_eq!((filter, data), (EVFILT_TIMER, 1));
    let again = change(1, EVFILT_TIMER, EV_DELETE, 0, 0);
    assert_eq!(kq.change(again), Err(libc::ENOENT));
}

#[test]
fn signals_are_counted() {
    let kq = Kq::new();
    let signo = usize::try_from(libc::SIGURG).unwrap();
    kq.change(change(signo, EVFILT_SIGNAL, EV_ADD, 0, 0))
        .unwrap();
    for _ in 0..3 {
        post_signal(signo as u64);
    }
    let events = kq.ready();
    assert_eq!(events.len(), 1);
    let data = events[0].data;
    assert_eq!(data, 3);
    assert_eq!(kq.brief(), []);
}

#[test]
fn a_directory_is_told_of_its_entries() {
    let kq = Kq::new();
    let directory = tempfile::TempDir::new().unwrap();
    let (entry, below) = (directory.path().join("f"), directory.path().join("d"));
    let watched = std::fs::File::open(directory.path()).unwrap();
    let all = NOTE_WRITE | NOTE_LINK;
    kq.change(change(
        number(&watched),
        EVFILT_VNODE,
        EV_ADD | EV_CLEAR,
        all,
        0,
    ))
    .unwrap();
    let events = |bits| [(number(&watched), EV_ADD | EV_CLEAR, bits)];
    assert_eq!(kq.brief(), []);
    std::fs::write(&entry, "text").unwrap();
    assert_eq!(kq.brief(), events(NOTE_WRITE));
    std::fs::write(&entry, "more").unwrap();
    assert_eq!(kq.brief(), []);
    std::fs::create_dir(&below).unwrap();
    assert_eq!(kq.brief(), events(all));
    std::fs::rename(&entry, below.join("f")).unwrap();
    assert_eq!(kq.brief(), events(NOTE_WRITE));
}
