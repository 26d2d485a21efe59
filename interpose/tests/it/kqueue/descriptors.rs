//! Tests descriptors: those of watched files, those of queues, and those of the library.

use std::os::fd::{AsRawFd, IntoRawFd};

use agentfs_interpose_shim::kqueue::abi::*;
use agentfs_testkq::wait_until_asleep;

use super::support::{
    Kq, Process, Source, file, from_every_source, is_readable, number, read, vnode, woken,
};

const WRITE: u32 = NOTE_WRITE;

#[test]
fn two_descriptors_of_one_file_are_two_knotes() {
    from_every_source(|_, kq, post| {
        let file = file();
        let other = file.try_clone().unwrap();
        for fd in [&file, &other] {
            kq.change(vnode(fd, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        }
        post(&file, WRITE);
        assert_eq!(kq.brief().len(), 2);
    });
}

#[test]
fn closing_a_number_drops_its_knote_and_what_was_pending() {
    from_every_source(|process, kq, post| {
        let file = file();
        let other = file.try_clone().unwrap();
        for fd in [&file, &other] {
            kq.change(vnode(fd, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        }
        post(&file, WRITE);
        process.close(other.into_raw_fd());
        assert_eq!(process.daemon().watches().len(), 1);
        assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, WRITE)]);
        assert!(!kq.is_readable());
    });
}

#[test]
fn dup2_over_a_number_drops_its_knote() {
    from_every_source(|process, kq, post| {
        let (watched, other) = (file(), file());
        kq.change(vnode(&watched, EV_ADD, WRITE)).unwrap();
        post(&watched, WRITE);
        process.dup2(other.as_raw_fd(), watched.as_raw_fd());
        assert_eq!(kq.brief(), []);
        assert_eq!(process.daemon().watches(), []);
    });
}

#[test]
fn a_close_that_no_hook_saw_delivers_nothing_for_the_dead_knote() {
    let process = Process::new();
    let (kq, watched) = (process.kqueue(), file());
    let ident = number(&watched);
    kq.change(vnode(&watched, EV_ADD | EV_CLEAR, WRITE))
        .unwrap();
    process.post(Source::Daemon, &watched, WRITE);
    // The kernel notices the close, and the shim does not.
    agentfs_testkq::close(watched.into_raw_fd());
    assert_eq!(kq.brief(), []);
    assert!(!kq.is_readable());
    assert_eq!(process.daemon().watches(), []);
    let next = file();
    assert_eq!(number(&next), ident, "the number is used again");
    kq.change(vnode(&next, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process.post(Source::Daemon, &next, WRITE);
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn a_number_closed_unseen_and_registered_again_watches_the_new_file() {
    let process = Process::new();
    let (kq, watched) = (process.kqueue(), file());
    let copy = watched.try_clone().unwrap();
    kq.change(vnode(&watched, EV_ADD, WRITE)).unwrap();
    agentfs_testkq::close(watched.into_raw_fd());
    let next = file();
    kq.change(vnode(&next, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process.post(Source::Daemon, &copy, WRITE);
    assert_eq!(kq.brief(), []);
    process.post(Source::Daemon, &next, WRITE);
    assert_eq!(kq.brief(), [(number(&next), EV_ADD | EV_CLEAR, WRITE)]);
}

#[test]
fn closing_a_queue_ends_its_watches() {
    let process = Process::new();
    let file = file();
    let kq = process.kqueue();
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    assert_eq!(process.daemon().open_queues(), 1);
    drop(kq);
    assert_eq!(process.daemon().open_queues(), 0);
    let again = process.kqueue();
    assert_eq!(again.brief(), []);
}

#[test]
fn a_queue_closed_unseen_is_forgotten_when_the_number_is_a_queue_again() {
    let process = Process::new();
    let watched = file();
    let kq = std::mem::ManuallyDrop::new(process.kqueue());
    kq.change(vnode(&watched, EV_ADD | EV_CLEAR, WRITE))
        .unwrap();
    agentfs_testkq::close(kq.fd);
    let others: Vec<_> = (0..16).map(|_| process.kqueue()).collect();
    assert!(others.iter().any(|other| other.fd == kq.fd));
    assert_eq!(process.daemon().open_queues(), 0);
}

#[test]
fn closing_the_queue_gives_the_sleeper_ebadf() {
    let process = Process::new();
    let file = file();
    let kq = std::mem::ManuallyDrop::new(process.kqueue());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| kq.call(&[], 4, None));
        wait_until_asleep(kq.fd, 1);
        process.close(kq.fd);
        assert_eq!(woken(sleeper), Err(libc::EBADF));
    });
}

#[test]
fn a_second_number_of_a_queue_hears_the_same() {
    let process = Process::new();
    let (kq, watched) = (process.kqueue(), file());
    kq.change(vnode(&watched, EV_ADD | EV_CLEAR, WRITE))
        .unwrap();
    let other = file().into_raw_fd();
    process.dup2(kq.fd, other);
    let other = Kq {
        process: &process,
        fd: other,
    };
    drop(kq);
    process.post(Source::Daemon, &watched, WRITE);
    assert_eq!(other.brief().len(), 1);
    assert_eq!(process.daemon().open_queues(), 1);
    drop(other);
    assert_eq!(process.daemon().open_queues(), 0);
}

#[test]
fn poll_and_an_outer_queue_find_the_queue_readable() {
    from_every_source(|process, kq, post| {
        let (outer, file) = (process.kqueue(), file());
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        outer.change(read(number(&kq.fd), EV_ADD)).unwrap();
        assert!(!kq.is_readable());
        assert_eq!(outer.brief(), []);
        post(&file, WRITE);
        assert!(kq.is_readable());
        assert_eq!(outer.ready()[0].ident, number(&kq.fd));
        assert_eq!(kq.brief().len(), 1);
        assert!(!kq.is_readable());
        assert_eq!(outer.brief(), []);
    });
}

#[test]
fn leftovers_keep_the_queue_readable() {
    let process = Process::new();
    let (kq, files) = (process.kqueue(), [file(), file(), file()]);
    for file in &files {
        kq.change(vnode(file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        process.post(Source::Daemon, file, WRITE);
    }
    for left in [true, true, false] {
        assert_eq!(kq.call(&[], 1, None).unwrap().len(), 1);
        assert_eq!(kq.is_readable(), left);
    }
}

#[test]
fn a_program_that_wants_the_number_of_the_doorbell_gets_it() {
    let process = Process::new();
    let (kq, watched) = (process.kqueue(), file());
    kq.change(vnode(&watched, EV_ADD | EV_CLEAR, WRITE))
        .unwrap();
    let ours = process.engine.hidden_descriptors(kq.fd)[0];
    assert!(process.engine.hides(ours));
    let other = file();
    process.dup2(other.as_raw_fd(), ours);
    assert!(!process.engine.hides(ours));
    process.post(Source::Daemon, &watched, WRITE);
    assert!(is_readable(kq.fd));
    assert_eq!(kq.brief().len(), 1);
    agentfs_testkq::close(ours);
    process.post(Source::Daemon, &watched, WRITE);
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn a_forked_child_has_no_queues() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    let ours = process.engine.hidden_descriptors(kq.fd)[0];
    assert!(process.engine.hides(ours));
    // This is what a child of fork does first; it asks nothing of its parent's daemon.
    process.engine.in_forked_child();
    assert!(!process.engine.hides(ours));
    process.engine.closing(kq.fd);
    assert_eq!(
        process.daemon().open_queues(),
        1,
        "the parent's queue lives on"
    );
}
