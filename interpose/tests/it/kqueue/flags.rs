//! Tests the state of knotes, which is the same for posts of the kernel, posts of the daemon, and
//! both.

use agentfs_interpose_shim::kqueue::abi::*;

use super::support::{Process, Source, file, from_every_source, number, vnode};

const DELETE: u32 = 0x01;
const WRITE: u32 = NOTE_WRITE;
const EXTEND: u32 = 0x04;
const ATTRIB: u32 = 0x08;
const LINK: u32 = 0x10;

#[test]
fn whole_hint_is_delivered_with_the_flags_as_given() {
    from_every_source(|_, kq, post| {
        let file = file();
        let given = EV_ADD | EV_ENABLE | EV_CLEAR;
        let mut add = vnode(&file, given, DELETE);
        add.udata = 77;
        kq.change(add).unwrap();
        post(&file, WRITE);
        assert_eq!(kq.brief(), []);
        post(&file, DELETE | LINK);
        let events = kq.ready();
        let expected = Event {
            fflags: DELETE | LINK,
            ..add
        };
        assert_eq!(events, [expected]);
        assert_eq!(kq.brief(), []);
        assert!(!kq.is_readable());
    });
}

#[test]
fn posts_of_kernel_and_daemon_are_one_event() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, 0xFF)).unwrap();
    for (first, second) in [
        (Source::Kernel, Source::Daemon),
        (Source::Daemon, Source::Kernel),
    ] {
        process.post(first, &file, EXTEND);
        process.post(second, &file, WRITE);
        process.post(first, &file, ATTRIB);
        let all = EXTEND | WRITE | ATTRIB;
        assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, all)]);
        assert_eq!(kq.brief(), []);
    }
}

#[test]
fn receipt_stays_in_the_latched_flags() {
    from_every_source(|_, kq, post| {
        let file = file();
        let given = EV_ADD | EV_RECEIPT | EV_CLEAR;
        let slots = kq.call(&[vnode(&file, given, WRITE)], 1, None).unwrap();
        assert_eq!((slots[0].flags, slots[0].data), (given | EV_ERROR, 0));
        post(&file, WRITE);
        assert_eq!(kq.brief(), [(number(&file), given, WRITE)]);
    });
}

#[test]
fn adding_again_keeps_the_latched_flags() {
    from_every_source(|_, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        kq.change(vnode(&file, EV_ADD | EV_ONESHOT, WRITE)).unwrap();
        for _ in 0..2 {
            post(&file, WRITE);
            assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, WRITE)]);
        }
    });
}

#[test]
fn later_changes_replace_interest_and_udata() {
    from_every_source(|process, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        kq.change(vnode(&file, EV_ENABLE, 0)).unwrap();
        post(&file, WRITE);
        assert_eq!(kq.brief(), []);
        let mut touch = vnode(&file, 0, ATTRIB);
        touch.udata = 8;
        kq.change(touch).unwrap();
        assert_eq!(process.daemon().watches().len(), 1);
        post(&file, ATTRIB);
        let events = kq.ready();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].fflags, events[0].udata), (ATTRIB, 8));
    });
}

#[test]
fn pending_bits_survive_a_change_of_interest() {
    from_every_source(|_, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
        post(&file, WRITE);
        kq.change(vnode(&file, EV_ADD, DELETE)).unwrap();
        assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, WRITE)]);
    });
}

#[test]
fn disabled_knotes_collect_until_enabled() {
    from_every_source(|_, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD | EV_CLEAR | EV_DISABLE, WRITE))
            .unwrap();
        post(&file, WRITE);
        kq.change(vnode(&file, EV_ADD, WRITE | ATTRIB)).unwrap();
        assert_eq!(kq.brief(), []);
        post(&file, ATTRIB);
        assert_eq!(kq.brief(), []);
        assert!(!kq.is_readable());
        kq.change(vnode(&file, EV_ENABLE, WRITE)).unwrap();
        assert!(kq.is_readable());
        let events = kq.brief();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].2, WRITE | ATTRIB);
    });
}

#[test]
fn without_clear_bits_stay_and_the_queue_stays_readable() {
    from_every_source(|_, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD, WRITE | ATTRIB)).unwrap();
        post(&file, WRITE);
        assert_eq!(kq.brief(), [(number(&file), EV_ADD, WRITE)]);
        post(&file, ATTRIB);
        for _ in 0..3 {
            assert!(kq.is_readable());
            assert_eq!(kq.brief(), [(number(&file), EV_ADD, WRITE | ATTRIB)]);
        }
        kq.change(vnode(&file, EV_DELETE, 0)).unwrap();
        assert_eq!(kq.brief(), []);
        assert!(!kq.is_readable());
    });
}

#[test]
fn oneshot_is_gone_after_delivery() {
    from_every_source(|process, kq, post| {
        let file = file();
        kq.change(vnode(&file, EV_ADD | EV_ONESHOT, WRITE)).unwrap();
        post(&file, WRITE);
        assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_ONESHOT, WRITE)]);
        assert_eq!(kq.change(vnode(&file, EV_DELETE, 0)), Err(libc::ENOENT));
        assert_eq!(process.daemon().watches(), []);
        post(&file, WRITE);
        assert_eq!(kq.brief(), []);
    });
}

#[test]
fn dispatch_disables_and_keeps_interest_and_udata() {
    from_every_source(|_, kq, post| {
        let files = [file(), file()];
        for (file, (flags, again)) in files
            .iter()
            .zip([(EV_DISPATCH, 1), (EV_DISPATCH | EV_CLEAR, 0)])
        {
            let mut add = vnode(file, EV_ADD | flags, WRITE);
            add.udata = 5;
            kq.change(add).unwrap();
            post(file, WRITE);
            assert_eq!(kq.brief().len(), 1);
            assert_eq!(kq.brief(), []);
            assert!(!kq.is_readable());
            let mut enable = vnode(file, EV_ENABLE, WRITE);
            enable.udata = 6;
            kq.change(enable).unwrap();
            let events = kq.ready();
            assert_eq!(events.len(), again);
            if again == 0 {
                post(file, WRITE);
                assert_eq!(kq.ready()[0].udata, 6);
            } else {
                assert_eq!(events[0].udata, 6);
            }
        }
    });
}

#[test]
fn delivery_by_the_daemon_leaves_the_kernels_interest_alone() {
    for flags in [EV_CLEAR, EV_CLEAR | EV_DISPATCH] {
        let process = Process::new();
        let (kq, file) = (process.kqueue(), file());
        let mut add = vnode(&file, EV_ADD | flags, WRITE | DELETE);
        add.udata = 9;
        kq.change(add).unwrap();
        process.post(Source::Daemon, &file, WRITE);
        assert_eq!(kq.brief().len(), 1);
        if flags & EV_DISPATCH != 0 {
            process.post(Source::Kernel, &file, WRITE);
            assert_eq!(kq.brief(), [], "disabled in the kernel too");
            kq.change(Event {
                flags: EV_ENABLE,
                ..add
            })
            .unwrap();
            assert_eq!(kq.brief().len(), 1);
            kq.change(Event {
                flags: EV_ENABLE,
                ..add
            })
            .unwrap();
        }
        process.post(Source::Kernel, &file, DELETE);
        let events = kq.ready();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].fflags, events[0].udata), (DELETE, 9));
    }
}

#[test]
fn udata_specific_knotes_are_separate() {
    from_every_source(|_, kq, post| {
        let file = file();
        let flags = EV_ADD | EV_CLEAR | EV_UDATA_SPECIFIC;
        for udata in 1..=3 {
            let mut change = vnode(&file, flags, WRITE);
            change.udata = udata;
            kq.change(change).unwrap();
        }
        let mut delete = vnode(&file, EV_DELETE | EV_UDATA_SPECIFIC, 0);
        delete.udata = 2;
        kq.change(delete).unwrap();
        post(&file, WRITE);
        let mut heard: Vec<u64> = kq.ready().iter().map(|e| e.udata).collect();
        heard.sort_unstable();
        assert_eq!(heard, [1, 3]);
    });
}

#[test]
fn dispatch2_oneshot_ends_as_the_kernel_ends_it() {
    from_every_source(|_, kq, post| {
        let file = file();
        let flags = EV_ADD | EV_ONESHOT | EV_DISPATCH2;
        kq.change(vnode(&file, flags, WRITE)).unwrap();
        post(&file, WRITE);
        assert_eq!(kq.brief(), [(number(&file), flags, WRITE)]);
        assert_eq!(kq.brief(), []);
        kq.change(vnode(&file, EV_ENABLE | EV_DISPATCH2, WRITE))
            .unwrap();
        let last = EV_DELETE | EV_ONESHOT | EV_DISPATCH2;
        assert_eq!(kq.brief(), [(number(&file), last, 0)]);
    });
}

#[test]
fn a_late_record_of_a_deleted_knote_finds_nobody() {
    let process = Process::new();
    let (kq, file) = (process.kqueue(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    let (old, _) = process.daemon().watches()[0];
    kq.change(vnode(&file, EV_DELETE, 0)).unwrap();
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, WRITE)).unwrap();
    process
        .daemon()
        .push(agentfs_proto::record::Kind::MODIFIED, old, WRITE);
    assert_eq!(kq.brief(), []);
    assert_ne!(process.daemon().watches()[0].0, old);
}
