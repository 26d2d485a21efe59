//! Tests `EVFILT_VNODE`, row by row. D delete, W write, E extend, A attrib, L link, R rename;
//! letters that stand together are one post.

use agentfs_core::event::{Change, RenameHow, ResizedBy, SizeChange};
use agentfs_engine::synth::vnode::{
    NOTE_ATTRIB, NOTE_DELETE, NOTE_EXTEND, NOTE_LINK, NOTE_RENAME, NOTE_WRITE, Post, Posts, hear,
};
use agentfs_engine::synth::{Role, vnode_freebsd, vnode_xnu};

use crate::changes::*;

const NAMES: [(u32, &str); 10] = [
    (NOTE_DELETE, "D"),
    (NOTE_WRITE, "W"),
    (NOTE_EXTEND, "E"),
    (NOTE_ATTRIB, "A"),
    (NOTE_LINK, "L"),
    (NOTE_RENAME, "R"),
    (vnode_freebsd::NOTE_OPEN, "open"),
    (vnode_freebsd::NOTE_CLOSE, "close"),
    (vnode_freebsd::NOTE_CLOSE_WRITE, "close_write"),
    (vnode_freebsd::NOTE_READ, "read"),
];

fn say(posts: fn(&Change) -> Posts, changes: &[Change]) -> String {
    let mut said = Vec::new();
    for change in changes {
        for Post { role, hint } in posts(change).iter() {
            let bits = bits(*hint, &NAMES).replace('|', "");
            said.push(format!("{}:{bits}", letter(change, *role)));
        }
    }
    said.join(" ")
}

#[track_caller]
fn xnu(changes: &[Change], expected: &str) {
    assert_eq!(say(vnode_xnu::posts, changes), expected);
}

#[track_caller]
fn freebsd(changes: &[Change], expected: &str) {
    assert_eq!(say(vnode_freebsd::posts, changes), expected);
}

#[test]
fn names_come_to_be() {
    for kind in [FILE, SYMLINK] {
        xnu(&[created(kind)], "P:W");
        freebsd(&[created(kind)], "P:W");
    }
    xnu(&[created(DIR)], "P:WL");
    freebsd(&[created(DIR)], "P:WL");
    xnu(&[linked(E)], "O:L E:W");
    freebsd(&[linked(E)], "O:L E:W");
}

#[test]
fn names_go() {
    for nlink in [0, 1] {
        for open in [false, true] {
            let change = [removed(node(O, FILE, nlink, open))];
            xnu(&change, "O:DL P:W");
            freebsd(&change, "P:W O:D");
        }
    }
    let rmdir = [removed(node(O, DIR, 0, false))];
    xnu(&rmdir, "O:DL P:WL");
    freebsd(&rmdir, "P:WL O:D");
}

#[test]
fn writes() {
    xnu(&[written(SizeChange::Grew)], "O:E O:W");
    freebsd(&[written(SizeChange::Grew)], "O:WE");
    xnu(&[written(SizeChange::Same)], "O:W");
    freebsd(&[written(SizeChange::Same)], "O:W");
}

#[test]
fn truncation_is_an_attribute() {
    for by in [ResizedBy::Truncate, ResizedBy::OpenTruncate] {
        for size in [SizeChange::Shrank, SizeChange::Same] {
            xnu(&[resized(by, size)], "O:A");
            freebsd(&[resized(by, size)], "O:A");
        }
    }
    let grows = [resized(ResizedBy::Truncate, SizeChange::Grew)];
    xnu(&grows, "O:E O:A");
    freebsd(&grows, "O:A");
    xnu(&[resized(ResizedBy::Allocate, SizeChange::Same)], "");
    xnu(&[resized(ResizedBy::Allocate, SizeChange::Grew)], "O:E");
    freebsd(&[resized(ResizedBy::Allocate, SizeChange::Grew)], "");
}

#[test]
fn overwriting_from_a_shell_is_attrib_extend_write_when_read_at_once() {
    let change = [
        resized(ResizedBy::OpenTruncate, SizeChange::Shrank),
        written(SizeChange::Grew),
    ];
    xnu(&change, "O:A O:E O:W");
    let merged = change
        .iter()
        .flat_map(|change| vnode_xnu::posts(change).to_vec())
        .fold(0, |all, post| all | post.hint);
    assert_eq!(merged, 0x0E);
}

#[test]
fn attributes() {
    for change in [
        mode(FILE),
        mode(DIR),
        owner(),
        times(true, true),
        times(true, false),
        times(false, true),
        xattr(FILE, false),
        xattr(DIR, true),
    ] {
        xnu(std::slice::from_ref(&change), "O:A");
        freebsd(std::slice::from_ref(&change), "O:A");
    }
}

#[test]
fn renames_of_files() {
    let here = [renamed(FILE, P, RenameHow::Free)];
    xnu(&here, "P:W O:R");
    freebsd(&here, "P:W P:W O:R");
    let across = [renamed(FILE, E, RenameHow::Free)];
    xnu(&across, "P:W E:W O:R");
    freebsd(&across, "P:WE E:WE O:R");
    for nlink in [0, 1] {
        let over_here = [renamed(FILE, P, over(FILE, nlink, false))];
        xnu(&over_here, "P:W T:D O:R");
        freebsd(&over_here, "P:W P:W O:R T:D");
        let over_across = [renamed(FILE, E, over(FILE, nlink, false))];
        xnu(&over_across, "P:W E:W T:D O:R");
        freebsd(&over_across, "P:WE E:WE O:R T:D");
    }
}

#[test]
fn renames_of_directories() {
    let here = [renamed(DIR, P, RenameHow::Free)];
    xnu(&here, "P:W O:R");
    freebsd(&here, "P:W P:W O:R");
    let across = [renamed(DIR, E, RenameHow::Free)];
    xnu(&across, "P:WL E:WL O:R");
    freebsd(&across, "P:WEL E:WEL O:R");
    let over_here = [renamed(DIR, P, over(DIR, 0, false))];
    xnu(&over_here, "P:WL T:D O:R");
    freebsd(&over_here, "P:WL P:WL O:R T:D");
    let over_across = [renamed(DIR, E, over(DIR, 0, false))];
    xnu(&over_across, "P:W E:W T:D O:R");
    freebsd(&over_across, "P:WEL E:WE O:R T:D");
}

#[test]
fn an_exchange_on_xnu_is_one_rename_that_deletes_the_survivor() {
    xnu(&exchanged(FILE, P), "P:W T:D O:R");
    xnu(&exchanged(FILE, E), "P:W E:W T:D O:R");
    xnu(&exchanged(DIR, P), "P:WL T:D O:R");
    freebsd(&exchanged(FILE, E), "P:WE E:WE O:R E:WE P:WE T:R");
}

#[test]
fn activity_is_freebsd_only() {
    let all = [
        opened(FILE),
        read(FILE),
        closed(object(FILE), true),
        closed(object(FILE), false),
    ];
    xnu(&all, "");
    freebsd(&all, "O:open O:read O:close_write O:close");
    // The knotes of an unlinked file are gone with its descriptor, before its vnode is.
    xnu(&[closed(node(O, FILE, 0, false), false)], "");
}

#[test]
fn a_knote_gets_the_whole_hint_when_any_bit_matches() {
    let post = Post {
        role: Role::Object,
        hint: NOTE_DELETE | NOTE_LINK,
    };
    assert_eq!(hear(NOTE_DELETE, &post), 0x11);
    assert_eq!(hear(NOTE_WRITE, &post), 0);
}

/// The simple mapping: Created -> parent NOTE_WRITE; Removed -> NOTE_DELETE and parent NOTE_WRITE;
/// Modified -> NOTE_WRITE, with NOTE_EXTEND when the file grew; Renamed -> NOTE_RENAME.
#[test]
fn the_simple_mapping_is_a_subset_of_what_the_kernels_say() {
    let simple: [(Change, &[(char, u32)]); 5] = [
        (created(FILE), &[('P', NOTE_WRITE)]),
        (
            removed(node(O, FILE, 0, false)),
            &[('O', NOTE_DELETE), ('P', NOTE_WRITE)],
        ),
        (written(SizeChange::Same), &[('O', NOTE_WRITE)]),
        (
            written(SizeChange::Grew),
            &[('O', NOTE_WRITE | NOTE_EXTEND)],
        ),
        (renamed(FILE, E, RenameHow::Free), &[('O', NOTE_RENAME)]),
    ];
    for posts in [vnode_xnu::posts, vnode_freebsd::posts] {
        for (change, expected) in &simple {
            for (node, wanted) in *expected {
                let posted = posts(change)
                    .iter()
                    .filter(|post| letter(change, post.role) == *node)
                    .fold(0, |all, post| all | post.hint);
                assert_eq!(posted & wanted, *wanted, "{node} of {change:?}");
            }
        }
    }
}
