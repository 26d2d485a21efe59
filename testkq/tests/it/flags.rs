//! Tests the state of knotes: what flags do at registration, at later changes and at delivery.

use agentfs_testkq::abi::*;

use crate::support::{Kq, number, post, user, vnode};

fn file() -> std::fs::File {
    tempfile::tempfile().unwrap()
}

#[test]
fn any_requested_bit_lets_the_whole_hint_in() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, NOTE_DELETE))
        .unwrap();
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief(), []);
    post(&file, NOTE_DELETE | NOTE_LINK);
    assert_eq!(
        kq.brief(),
        [(number(&file), EV_ADD | EV_CLEAR, NOTE_DELETE | NOTE_LINK)]
    );
}

#[test]
fn several_posts_before_delivery_are_one_event() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, 0xFF)).unwrap();
    post(&file, NOTE_EXTEND);
    post(&file, NOTE_WRITE);
    assert_eq!(
        kq.brief(),
        [(number(&file), EV_ADD | EV_CLEAR, NOTE_EXTEND | NOTE_WRITE)]
    );
    assert_eq!(kq.brief(), []);
}

#[test]
fn flags_are_delivered_as_given() {
    let (kq, file) = (Kq::new(), file());
    let given = EV_ADD | EV_ENABLE | EV_RECEIPT | EV_CLEAR;
    kq.call(&[vnode(&file, given, NOTE_WRITE)], 1, None)
        .unwrap();
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief(), [(number(&file), given, NOTE_WRITE)]);
}

#[test]
fn adding_again_does_not_change_the_latched_flags() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, NOTE_WRITE))
        .unwrap();
    kq.change(vnode(&file, EV_ADD | EV_ONESHOT, NOTE_WRITE))
        .unwrap();
    for _ in 0..2 {
        post(&file, NOTE_WRITE);
        assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, NOTE_WRITE)]);
    }
}

#[test]
fn any_later_change_replaces_interest_and_udata() {
    let (kq, file) = (Kq::new(), file());
    let mut add = vnode(&file, EV_ADD | EV_CLEAR, NOTE_WRITE);
    add.udata = 7;
    kq.change(add).unwrap();
    kq.change(vnode(&file, EV_ENABLE, 0)).unwrap();
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief(), []);
    let mut touch = vnode(&file, 0, NOTE_ATTRIB);
    touch.udata = 8;
    kq.change(touch).unwrap();
    post(&file, NOTE_ATTRIB);
    let events = kq.ready();
    assert_eq!(events.len(), 1);
    let (fflags, udata) = (events[0].fflags, events[0].udata);
    assert_eq!((fflags, udata), (NOTE_ATTRIB, 8));
}

#[test]
fn pending_bits_survive_a_change_of_interest() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, NOTE_WRITE))
        .unwrap();
    post(&file, NOTE_WRITE);
    kq.change(vnode(&file, EV_ADD, NOTE_DELETE)).unwrap();
    assert_eq!(kq.brief(), [(number(&file), EV_ADD | EV_CLEAR, NOTE_WRITE)]);
}

#[test]
fn disabled_knotes_collect_until_enabled_and_adding_does_not_enable() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR | EV_DISABLE, NOTE_WRITE))
        .unwrap();
    post(&file, NOTE_WRITE);
    kq.change(vnode(&file, EV_ADD, NOTE_WRITE)).unwrap();
    assert_eq!(kq.brief(), []);
    assert!(!kq.is_readable());
    kq.change(vnode(&file, EV_ENABLE, NOTE_WRITE)).unwrap();
    assert_eq!(kq.brief().len(), 1);
}

#[test]
fn without_clear_bits_stay_until_the_knote_is_deleted() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD, NOTE_WRITE | NOTE_ATTRIB))
        .unwrap();
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief(), [(number(&file), EV_ADD, NOTE_WRITE)]);
    post(&file, NOTE_ATTRIB);
    for _ in 0..2 {
        assert_eq!(
            kq.brief(),
            [(number(&file), EV_ADD, NOTE_WRITE | NOTE_ATTRIB)]
        );
        assert!(kq.is_readable());
    }
    kq.change(vnode(&file, EV_DELETE, 0)).unwrap();
    assert_eq!(kq.brief(), []);
    assert!(!kq.is_readable());
}

#[test]
fn oneshot_deletes_on_delivery() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_ONESHOT, NOTE_WRITE))
        .unwrap();
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief().len(), 1);
    assert_eq!(kq.change(vnode(&file, EV_DELETE, 0)), Err(libc::ENOENT));
}

#[test]
fn dispatch_disables_and_keeps_bits_unless_clear() {
    for (flags, again) in [(EV_DISPATCH, 1), (EV_DISPATCH | EV_CLEAR, 0)] {
        let (kq, file) = (Kq::new(), file());
        kq.change(vnode(&file, EV_ADD | flags, NOTE_WRITE)).unwrap();
        post(&file, NOTE_WRITE);
        assert_eq!(kq.brief().len(), 1);
        assert_eq!(kq.brief(), []);
        kq.change(vnode(&file, EV_ENABLE, NOTE_WRITE)).unwrap();
        assert_eq!(kq.brief().len(), again);
    }
}

#[test]
fn udata_specific_knotes_of_one_ident_are_separate() {
    let (kq, file) = (Kq::new(), file());
    let flags = EV_ADD | EV_CLEAR | EV_UDATA_SPECIFIC;
    for udata in [1, 2] {
        let mut change = vnode(&file, flags, NOTE_WRITE);
        change.udata = udata;
        kq.change(change).unwrap();
    }
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief().len(), 2);
}

#[test]
fn deleting_a_disabled_dispatch2_knote_waits_for_enable() {
    let (kq, file) = (Kq::new(), file());
    let identity = EV_DISPATCH2;
    kq.change(vnode(&file, EV_ADD | EV_DISABLE | identity, NOTE_WRITE))
        .unwrap();
    let delete = vnode(&file, EV_DELETE | identity, 0);
    assert_eq!(kq.change(delete), Err(libc::EINPROGRESS));
    kq.change(vnode(&file, EV_ENABLE | identity, 0)).unwrap();
    let last = EV_DELETE | EV_ONESHOT | EV_DISPATCH2;
    assert_eq!(kq.brief(), [(number(&file), last, 0)]);
    assert_eq!(kq.change(delete), Err(libc::ENOENT));
}

#[test]
fn delete_overrules_add_and_disable_overrules_enable() {
    let (kq, file) = (Kq::new(), file());
    let both = vnode(&file, EV_ADD | EV_DELETE, NOTE_WRITE);
    assert_eq!(kq.change(both), Err(libc::ENOENT));
    kq.change(vnode(&file, EV_ADD | EV_ENABLE | EV_DISABLE, NOTE_WRITE))
        .unwrap();
    post(&file, NOTE_WRITE);
    assert_eq!(kq.brief(), []);
}

#[test]
fn revoke_reaches_everybody_and_ends_the_knote() {
    let (kq, file) = (Kq::new(), file());
    kq.change(vnode(&file, EV_ADD | EV_CLEAR, NOTE_WRITE))
        .unwrap();
    post(&file, NOTE_REVOKE);
    let flags = EV_ADD | EV_CLEAR | EV_EOF | EV_ONESHOT;
    assert_eq!(kq.brief(), [(number(&file), flags, 0)]);
    assert_eq!(kq.change(vnode(&file, EV_DELETE, 0)), Err(libc::ENOENT));
}

#[test]
fn user_flags_are_set_by_the_control_bits() {
    let kq = Kq::new();
    kq.change(user(1, EV_ADD | EV_CLEAR, NOTE_FFCOPY | 0x0F))
        .unwrap();
    kq.change(user(1, 0, NOTE_FFOR | 0x10)).unwrap();
    kq.change(user(1, 0, NOTE_FFAND | 0x11)).unwrap();
    assert_eq!(kq.brief(), []);
    kq.change(user(1, 0, NOTE_TRIGGER)).unwrap();
    assert_eq!(kq.brief(), [(1, EV_ADD | EV_CLEAR, 0x11)]);
    assert_eq!(kq.brief(), []);
}

#[test]
fn user_knote_without_clear_stays_triggered() {
    let kq = Kq::new();
    kq.change(user(1, EV_ADD, NOTE_TRIGGER)).unwrap();
    assert_eq!(kq.brief().len(), 1);
    assert_eq!(kq.brief().len(), 1);
    assert!(kq.is_readable());
}
