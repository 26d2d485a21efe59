//! Runs the sequences that once differed, in the form to which they were shrunk.

use agentfs_testkit::fs_oracle::generate::Case;
use agentfs_testkit::fs_oracle::op::Who::{Alice, Root};
use agentfs_testkit::fs_oracle::op::{Op, RenameFlags, Special, Stamp, Step, Whence};
use libc::{O_CREAT, O_DIRECTORY, O_NOFOLLOW, O_RDWR, O_TRUNC};

use crate::run::check;

#[track_caller]
fn same(steps: &[Step]) {
    check(&Case {
        lower: None,
        steps: steps.to_vec(),
    });
}

fn open(slot: usize, path: &'static str, flags: i32) -> Op {
    Op::Open {
        slot,
        path,
        flags,
        mode: 0o666,
    }
}

#[test]
fn a_range_may_not_end_beyond_the_largest_offset() {
    let at = i64::MAX.cast_unsigned();
    same(&[
        Root.does(open(3, "/f", O_CREAT | O_RDWR)),
        Root.does(Op::Pread {
            slot: 3,
            at,
            len: 13,
        }),
        Root.does(Op::Pwrite {
            slot: 3,
            at,
            seed: 1,
            len: 13,
        }),
        Root.does(Op::Pwrite {
            slot: 3,
            at,
            seed: 1,
            len: 0,
        }),
        Root.does(Op::CopyRange {
            from: 3,
            from_at: 0,
            to: 3,
            to_at: u64::MAX,
            len: 36,
        }),
        Root.does(Op::CopyRange {
            from: 3,
            from_at: 0,
            to: 3,
            to_at: at,
            len: 0,
        }),
    ]);
}

#[test]
fn setting_no_time_does_not_look_at_the_path() {
    let (atime, mtime) = (Stamp::Omit, Stamp::Omit);
    same(&[Root.does(Op::Utimens {
        path: "/none",
        atime,
        mtime,
        follow: true,
    })]);
}

#[test]
fn changing_no_owner_takes_setgid_and_so_needs_the_owner() {
    same(&[
        Root.does(open(3, "/f", O_CREAT | O_RDWR)),
        Root.does(Op::Chmod {
            path: "/f",
            mode: 0o2646,
        }),
        Alice.does(Op::Chown {
            path: "/f",
            uid: None,
            gid: None,
            follow: true,
        }),
        Root.does(Op::Chown {
            path: "/f",
            uid: None,
            gid: None,
            follow: true,
        }),
    ]);
}

#[test]
fn truncating_to_the_same_size_takes_setuid_and_stamps_only_a_file_with_pages() {
    let (atime, mtime) = (Stamp::At(1, 2), Stamp::At(3, 4));
    let stamped = Op::Utimens {
        path: "/f",
        atime,
        mtime,
        follow: true,
    };
    same(&[
        Root.does(open(3, "/f", O_CREAT | O_RDWR)),
        Root.does(Op::Chmod {
            path: "/f",
            mode: 0o4757,
        }),
        Root.does(stamped),
        Alice.does(Op::Truncate { path: "/f", len: 0 }),
        Root.does(Op::Stat {
            path: "/f",
            follow: true,
        }),
        Root.does(Op::Write {
            slot: 3,
            seed: 73,
            len: 175,
        }),
        Root.does(stamped),
        Root.does(Op::Truncate {
            path: "/f",
            len: 175,
        }),
    ]);
}

#[test]
fn a_removed_directory_keeps_its_times() {
    let (atime, mtime) = (Stamp::Omit, Stamp::At(1_137_964_297, 87_060_438));
    same(&[
        Root.does(Op::Mkdir {
            path: "/d",
            mode: 0o700,
        }),
        Root.does(open(4, "/d", O_DIRECTORY)),
        Root.does(Op::Utimens {
            path: "/d",
            atime,
            mtime,
            follow: true,
        }),
        Root.does(Op::Rmdir { path: "/d" }),
    ]);
}

#[test]
fn links_after_a_trailing_slash_are_followed_whatever_o_nofollow_says() {
    same(&[
        Root.does(Op::Symlink {
            target: "/l",
            path: "/l",
        }),
        Root.does(open(5, "/l/", O_NOFOLLOW | O_RDWR)),
    ]);
}

#[test]
fn pages_beyond_the_end_are_given_back() {
    same(&[
        Root.does(open(3, "/f", O_CREAT | O_RDWR)),
        Root.does(Op::Fallocate {
            slot: 3,
            mode: 1,
            at: 19_611,
            len: 126_853,
        }),
        Root.does(Op::Fallocate {
            slot: 3,
            mode: 3,
            at: 6_768,
            len: 138_945,
        }),
        Root.does(Op::Fstat { slot: 3 }),
        Root.does(open(4, "/f", O_RDWR | O_TRUNC)),
        Root.does(Op::Fstat { slot: 3 }),
    ]);
}

#[test]
fn what_is_allocated_twice_is_data() {
    same(&[
        Root.does(open(3, "/f", O_CREAT | O_RDWR)),
        Root.does(Op::Fallocate {
            slot: 3,
            mode: 0,
            at: 0,
            len: 128_089,
        }),
        Root.does(Op::Seek {
            slot: 3,
            whence: Whence::Data,
            to: 20,
        }),
        Root.does(Op::Fallocate {
            slot: 3,
            mode: 1,
            at: 8_192,
            len: 4_096,
        }),
        Root.does(Op::Seek {
            slot: 3,
            whence: Whence::Data,
            to: 20,
        }),
        Root.does(Op::Seek {
            slot: 3,
            whence: Whence::Hole,
            to: -238,
        }),
    ]);
}

#[test]
fn a_directory_has_no_end_to_seek_from() {
    same(&[
        Root.does(open(2, "/", O_DIRECTORY)),
        Root.does(Op::Seek {
            slot: 2,
            whence: Whence::End,
            to: 824,
        }),
        Root.does(Op::Seek {
            slot: 2,
            whence: Whence::Cur,
            to: 0,
        }),
    ]);
}

#[test]
fn a_name_of_an_attribute_is_checked_before_the_path() {
    let name = "";
    same(&[
        Root.does(Op::GetXattr {
            path: "/none",
            name,
            follow: true,
        }),
        Root.does(Op::RemoveXattr {
            path: "/none",
            name,
            follow: true,
        }),
        Root.does(Op::SetXattr {
            path: "/none",
            name,
            seed: 0,
            len: 1,
            flags: 8,
            follow: true,
        }),
        Root.does(Op::Access {
            path: "/none",
            mask: 8,
        }),
    ]);
}

#[test]
fn attributes_of_the_lower_layer_can_be_replaced_and_removed() {
    let set = |path, name| Op::SetXattr {
        path,
        name,
        seed: 1,
        len: 9,
        flags: 1,
        follow: true,
    };
    let device = Op::Mknod {
        path: "/null",
        special: Special::Char(1, 3),
        mode: 0o644,
    };
    check(&Case {
        lower: Some(vec![
            Root.does(open(1, "/f", O_CREAT | O_RDWR)),
            Root.does(device),
            Root.does(set("/f", "user.a")),
            Root.does(set("/", "user.b")),
        ]),
        steps: vec![
            Root.does(set("/f", "user.a")),
            Root.does(Op::RemoveXattr {
                path: "/f",
                name: "user.a",
                follow: true,
            }),
            Root.does(Op::Rename {
                from: "/null",
                to: "/f",
                flags: RenameFlags::Exchange,
            }),
        ],
    });
}
