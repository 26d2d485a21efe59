//! Tests descriptors: watched files, the queue's own, and queues in queues.

use std::os::fd::{AsRawFd, IntoRawFd};

use agentfs_testkq::abi::*;
use agentfs_testkq::{close, dup2};

use crate::support::{Kq, number, post, user, vnode};

fn read(ident: usize, flags: u16) -> Kevent {
    Kevent {
        ident,
        filter: EVFILT_READ,
        flags,
        ..Kevent::default()
    }
}

#[test]
fn two_descriptors_of_one_file_are_two_knotes() {
    let (kq, file) = (Kq::new(), tempfile::tempfile().unwrap());
    let other = file.try_clone().unwrap();
    for fd in [&file, &other] {
        kq.change(vnode(fd, EV_ADD | EV_CLEAR, NOTE_WRITE)).unwrap();
    }
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief().len(), 2);
}

#[test]
fn closing_a_number_deletes_its_knotes_only() {
    let (kq, file) = (Kq::new(), tempfile::tempfile().unwrap());
    let other = file.try_clone().unwrap();
    for fd in [&file, &other] {
        kq.change(vnode(fd, EV_ADD | EV_CLEAR, NOTE_WRITE)).unwrap();
    }
    post(&file, NOTE_WRITE);
    close(other.into_raw_fd());
    assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, NOTE_WRITE)]);
}

#[test]
fn dup2_over_a_watched_number_deletes_its_knotes() {
    let (kq, file) = (Kq::new(), tempfile::tempfile().unwrap());
    let other = tempfile::tempfile().unwrap();
    kq.change(vnode(&file, EV_ADD, NOTE_WRITE)).unwrap();
    post(&file, NOTE_WRITE);
    dup2(other.as_raw_fd(), file.as_raw_fd());
    assert_eq!(kq.brief(), []);
}

#[test]
fn vanished_is_told_when_asked_for() {
    let (kq, file) = (Kq::new(), tempfile::tempfile().unwrap());
    let ident = number(&file);
    let flags = EV_ADD | EV_DISPATCH2 | EV_CLEAR | EV_VANISHED;
    kq.change(vnode(&file, flags, NOTE_WRITE)).unwrap();
    close(file.into_raw_fd());
    let expected = EV_DISPATCH2 | EV_ONESHOT | EV_VANISHED;
    assert_eq!(kq.brief(), [(ident, expected, 0)]);
    assert_eq!(kq.brief(), []);
}

#[test]
fn vnode_filter_refuses_what_is_no_file() {
    let kq = Kq::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    assert_eq!(kq.change(vnode(&reader, EV_ADD, 1)), Err(libc::EINVAL));
    let inner = Kq::new();
    assert_eq!(kq.change(vnode(&inner.0, EV_ADD, 1)), Err(libc::EINVAL));
    assert_eq!(kq.change(vnode(&9999, EV_ADD, 1)), Err(libc::EBADF));
    let mut odd = user(1, EV_ADD, 0);
    odd.filter = 3;
    assert_eq!(kq.change(odd), Err(libc::EINVAL));
}

#[test]
fn a_queue_in_a_queue_tells_how_much_is_queued() {
    let (outer, inner) = (Kq::new(), Kq::new());
    outer.change(read(number(&inner.0), EV_ADD)).unwrap();
    assert!(!outer.is_readable());
    for ident in [1, 2] {
        inner.change(user(ident, EV_ADD, NOTE_TRIGGER)).unwrap();
    }
    assert!(outer.is_readable());
    let events = outer.ready();
    assert_eq!(events.len(), 1);
    let data = events[0].data;
    assert_eq!(data, 2);
    assert_eq!(
        outer.change(read(number(&outer.0), EV_ADD)),
        Err(libc::EINVAL)
    );
}

#[test]
fn a_second_number_of_a_queue_keeps_it_alive() {
    let kq = Kq::new();
    let other = tempfile::tempfile().unwrap().into_raw_fd();
    dup2(kq.0, other);
    kq.change(user(1, EV_ADD, NOTE_TRIGGER)).unwrap();
    drop(kq);
    assert_eq!(Kq(other).brief().len(), 1);
}
