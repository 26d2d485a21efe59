//! Tests inotify, row by row: what one instance with watches on everything hears, in order.

use agentfs_core::event::{Change, CreatedBy, RenameHow, ResizedBy, SizeChange};
use agentfs_core::id::NodeId;
use agentfs_engine::synth::inotify::{self, EntryName, Heard, Step, hear, steps};

use crate::changes::*;

const NAMES: [(u32, &str); 14] = [
    (inotify::IN_ACCESS, "ACCESS"),
    (inotify::IN_MODIFY, "MODIFY"),
    (inotify::IN_ATTRIB, "ATTRIB"),
    (inotify::IN_CLOSE_WRITE, "CLOSE_WRITE"),
    (inotify::IN_CLOSE_NOWRITE, "CLOSE_NOWRITE"),
    (inotify::IN_OPEN, "OPEN"),
    (inotify::IN_MOVED_FROM, "MOVED_FROM"),
    (inotify::IN_MOVED_TO, "MOVED_TO"),
    (inotify::IN_CREATE, "CREATE"),
    (inotify::IN_DELETE, "DELETE"),
    (inotify::IN_DELETE_SELF, "DELETE_SELF"),
    (inotify::IN_MOVE_SELF, "MOVE_SELF"),
    (inotify::IN_IGNORED, "IGNORED"),
    (inotify::IN_ISDIR, "ISDIR"),
];

fn say(change: &Change, step: &Step) -> String {
    let old = change.place();
    let new = change.new_place();
    let name = match step.name {
        EntryName::None => None,
        EntryName::Old => old,
        EntryName::New => new,
    };
    let name = name.map_or_else(String::new, |place| {
        format!(" {}", String::from_utf8_lossy(&place.name))
    });
    let letter = letter(change, step.role);
    format!("{letter} {}{name}", bits(step.mask, &NAMES))
}

#[track_caller]
fn check(changes: &[Change], expected: &str) {
    let said: Vec<String> = changes
        .iter()
        .flat_map(|change| {
            let steps = steps(change);
            steps
                .iter()
                .map(|step| say(change, step))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(said.join(", "), expected);
}

fn gone(kind: agentfs_core::event::ObjectKind) -> agentfs_core::event::NodeRef {
    node(O, kind, 0, false)
}

#[test]
fn names_come_to_be() {
    check(
        &[created(FILE), opened_new()],
        "P CREATE n, P OPEN n, O OPEN",
    );
    check(&[created(DIR)], "P CREATE|ISDIR n");
    check(&[created(SYMLINK)], "P CREATE n");
    check(&[linked(E)], "O ATTRIB, E CREATE new");
    check(&[linked(P)], "O ATTRIB, P CREATE new");
    let tmpfile = Change::Created {
        node: object(FILE),
        at: place(P, "real"),
        by: CreatedBy::LinkTmpfile,
    };
    check(&[tmpfile], "O ATTRIB, P CREATE real");
}

/// Returns the change of opening a new file. Nobody can watch O yet, so the kernel's sequence has
/// no O OPEN.
fn opened_new() -> Change {
    opened(FILE)
}

#[test]
fn open_files_tell_the_directory_first() {
    check(&[opened(FILE)], "P OPEN n, O OPEN");
    let truncate = resized(ResizedBy::OpenTruncate, SizeChange::Same);
    check(
        &[opened(FILE), truncate],
        "P OPEN n, O OPEN, P MODIFY n, O MODIFY",
    );
    check(&[read(FILE)], "P ACCESS n, O ACCESS");
    for size in [SizeChange::Grew, SizeChange::Same] {
        check(&[written(size)], "P MODIFY n, O MODIFY");
    }
    check(
        &[closed(object(FILE), true)],
        "P CLOSE_WRITE n, O CLOSE_WRITE",
    );
    check(
        &[closed(object(FILE), false)],
        "P CLOSE_NOWRITE n, O CLOSE_NOWRITE",
    );
    check(
        &[opened(DIR), read(DIR), closed(object(DIR), false)],
        "P OPEN|ISDIR n, O OPEN|ISDIR, P ACCESS|ISDIR n, O ACCESS|ISDIR, \
         P CLOSE_NOWRITE|ISDIR n, O CLOSE_NOWRITE|ISDIR",
    );
}

#[test]
fn every_change_of_size_modifies() {
    for by in [ResizedBy::Truncate, ResizedBy::Allocate] {
        for size in [SizeChange::Grew, SizeChange::Shrank, SizeChange::Same] {
            check(&[resized(by, size)], "P MODIFY n, O MODIFY");
        }
    }
}

#[test]
fn attributes() {
    check(&[mode(FILE)], "P ATTRIB n, O ATTRIB");
    check(&[owner()], "P ATTRIB n, O ATTRIB");
    check(&[mode(DIR)], "P ATTRIB|ISDIR n, O ATTRIB|ISDIR");
    check(&[xattr(FILE, false)], "P ATTRIB n, O ATTRIB");
    check(&[xattr(DIR, true)], "P ATTRIB|ISDIR n, O ATTRIB|ISDIR");
    check(&[times(true, true)], "P ATTRIB n, O ATTRIB");
    check(&[times(true, false)], "P ACCESS n, O ACCESS");
    check(&[times(false, true)], "P MODIFY n, O MODIFY");
}

#[test]
fn the_root_has_no_directory_that_could_hear() {
    let root = node(NodeId::ROOT, DIR, 2, false);
    let change = Change::Opened {
        node: root,
        at: None,
    };
    let masks: Vec<u32> = steps(&change).iter().map(|step| step.mask).collect();
    assert_eq!(masks, [inotify::IN_OPEN | inotify::IN_ISDIR]);
}

#[test]
fn names_go() {
    check(&[removed(node(O, FILE, 1, false))], "O ATTRIB, P DELETE n");
    check(
        &[removed(gone(FILE))],
        "O ATTRIB, O DELETE_SELF, O IGNORED, P DELETE n",
    );
    check(
        &[removed(node(O, FILE, 0, true)), closed(gone(FILE), true)],
        "O ATTRIB, P DELETE n, P CLOSE_WRITE n, O CLOSE_WRITE, O DELETE_SELF, O IGNORED",
    );
    check(
        &[removed(gone(DIR))],
        "O DELETE_SELF, O IGNORED, P DELETE|ISDIR n",
    );
    check(
        &[removed(node(O, DIR, 0, true)), closed(gone(DIR), false)],
        "P DELETE|ISDIR n, P CLOSE_NOWRITE|ISDIR n, O CLOSE_NOWRITE|ISDIR, O DELETE_SELF, O IGNORED",
    );
}

#[test]
fn renames() {
    let free = RenameHow::Free;
    check(
        &[renamed(FILE, P, free)],
        "P MOVED_FROM n, P MOVED_TO m, O MOVE_SELF",
    );
    check(
        &[renamed(FILE, E, free)],
        "P MOVED_FROM n, E MOVED_TO m, O MOVE_SELF",
    );
    check(
        &[renamed(DIR, E, free)],
        "P MOVED_FROM|ISDIR n, E MOVED_TO|ISDIR m, O MOVE_SELF",
    );
    let last = "P MOVED_FROM n, E MOVED_TO m, T ATTRIB, O MOVE_SELF, T DELETE_SELF, T IGNORED";
    check(&[renamed(FILE, E, over(FILE, 0, false))], last);
    let survives = "P MOVED_FROM n, E MOVED_TO m, T ATTRIB, O MOVE_SELF";
    check(&[renamed(FILE, E, over(FILE, 1, false))], survives);
    check(&[renamed(FILE, E, over(FILE, 0, true))], survives);
    check(
        &[renamed(DIR, P, over(DIR, 0, false))],
        "P MOVED_FROM|ISDIR n, P MOVED_TO|ISDIR m, T ATTRIB|ISDIR, O MOVE_SELF, \
         T DELETE_SELF, T IGNORED",
    );
    check(
        &exchanged(FILE, E),
        "P MOVED_FROM n, E MOVED_TO m, O MOVE_SELF, E MOVED_FROM m, P MOVED_TO n, T MOVE_SELF",
    );
}

#[test]
fn only_the_halves_of_a_rename_carry_a_cookie() {
    let change = renamed(FILE, E, RenameHow::Free);
    let cookies: Vec<bool> = steps(&change).iter().map(Step::has_cookie).collect();
    assert_eq!(cookies, [true, true, false]);
}

#[test]
fn a_watch_hears_what_its_mask_says() {
    let change = removed(gone(FILE));
    let steps = steps(&change);
    let heard = |mask| -> Vec<Heard> { steps.iter().map(|step| hear(mask, step)).collect() };
    assert_eq!(
        heard(inotify::IN_ATTRIB),
        [Heard::Event, Heard::No, Heard::Ignored, Heard::No]
    );
    assert_eq!(
        heard(inotify::IN_DELETE | inotify::IN_ONESHOT),
        [Heard::No, Heard::No, Heard::Ignored, Heard::LastEvent]
    );
}

#[test]
fn excl_unlink_silences_open_files_without_a_name_but_not_their_attributes() {
    let unlinked = node(O, FILE, 0, true);
    let at = Some(place(P, "n"));
    let write = Change::Written {
        node: unlinked,
        at: at.clone(),
        size: SizeChange::Grew,
    };
    let chmod = Change::Attributes {
        node: unlinked,
        at,
        set: agentfs_core::event::Attributes {
            mode: true,
            ..Default::default()
        },
    };
    let mask = inotify::IN_ALL_EVENTS | inotify::IN_EXCL_UNLINK;
    for step in steps(&write).iter() {
        assert_eq!(hear(mask, step), Heard::No);
        assert_eq!(hear(inotify::IN_ALL_EVENTS, step), Heard::Event);
    }
    for step in steps(&chmod).iter() {
        assert_eq!(hear(mask, step), Heard::Event);
    }
}

#[test]
fn isdir_is_no_reason_to_hear_an_event() {
    let change = created(DIR);
    for step in steps(&change).iter() {
        assert_eq!(hear(inotify::IN_ISDIR, step), Heard::No);
    }
}
