//! Tests FSEvents, row by row: the entries of a file-level stream.

use agentfs_core::event::{Change, RenameHow, ResizedBy, SizeChange};
use agentfs_engine::synth::fsevents::{self, At, entries};

use crate::changes::*;

const NAMES: [(u32, &str); 12] = [
    (fsevents::ITEM_CREATED, "Created"),
    (fsevents::ITEM_REMOVED, "Removed"),
    (fsevents::ITEM_INODE_META_MOD, "InodeMetaMod"),
    (fsevents::ITEM_RENAMED, "Renamed"),
    (fsevents::ITEM_MODIFIED, "Modified"),
    (fsevents::ITEM_CHANGE_OWNER, "ChangeOwner"),
    (fsevents::ITEM_XATTR_MOD, "XattrMod"),
    (fsevents::ITEM_IS_FILE, "IsFile"),
    (fsevents::ITEM_IS_DIR, "IsDir"),
    (fsevents::ITEM_IS_SYMLINK, "IsSymlink"),
    (fsevents::ITEM_IS_HARDLINK, "IsHardlink"),
    (fsevents::ITEM_IS_LAST_HARDLINK, "IsLastHardlink"),
];

#[track_caller]
fn check(change: &Change, expected: &str) {
    let said: Vec<String> = entries(change)
        .iter()
        .map(|entry| {
            let at = match entry.at {
                At::Old => "",
                At::New => "new ",
            };
            format!("{at}{}", bits(entry.flags, &NAMES))
        })
        .collect();
    assert_eq!(said.join(", "), expected);
}

#[test]
fn names_come_to_be_and_go() {
    check(&created(FILE), "Created|IsFile");
    check(&created(DIR), "Created|IsDir");
    check(&created(SYMLINK), "Created|IsSymlink");
    check(&linked(E), "Created|IsFile|IsHardlink");
    check(&removed(node(O, FILE, 0, false)), "Removed|IsFile");
    check(
        &removed(node(O, FILE, 1, false)),
        "Removed|IsFile|IsHardlink",
    );
    check(&removed(node(O, DIR, 0, false)), "Removed|IsDir");
}

#[test]
fn new_content_is_told_at_the_close() {
    check(&opened(FILE), "");
    check(&written(SizeChange::Grew), "");
    check(&closed(object(FILE), true), "InodeMetaMod|Modified|IsFile");
    let untouched = Change::Closed {
        node: object(FILE),
        at: Some(place(P, "n")),
        write: true,
        written: false,
    };
    check(&untouched, "");
    check(&closed(node(O, FILE, 0, false), true), "");
    check(&read(FILE), "");
}

#[test]
fn truncation_is_told_at_once() {
    for by in [
        ResizedBy::Truncate,
        ResizedBy::OpenTruncate,
        ResizedBy::Allocate,
    ] {
        check(&resized(by, SizeChange::Shrank), "InodeMetaMod|IsFile");
    }
}

#[test]
fn attributes() {
    check(&mode(FILE), "ChangeOwner|IsFile");
    check(&mode(DIR), "ChangeOwner|IsDir");
    check(&owner(), "ChangeOwner|IsFile");
    check(&times(true, true), "InodeMetaMod|IsFile");
    check(&times(false, true), "InodeMetaMod|IsFile");
    check(&times(true, false), "");
    check(&xattr(FILE, false), "XattrMod|IsFile");
    check(&xattr(FILE, true), "XattrMod|IsFile");
}

#[test]
fn a_rename_is_two_entries_and_the_replaced_file_none() {
    check(
        &renamed(FILE, E, RenameHow::Free),
        "Renamed|IsFile, new Renamed|IsFile",
    );
    check(
        &renamed(DIR, P, RenameHow::Free),
        "Renamed|IsDir, new Renamed|IsDir",
    );
    check(
        &renamed(FILE, E, over(FILE, 0, false)),
        "Renamed|IsFile, new Renamed|IsFile",
    );
    for change in exchanged(FILE, E) {
        check(&change, "Renamed|IsFile, new Renamed|IsFile");
    }
}
