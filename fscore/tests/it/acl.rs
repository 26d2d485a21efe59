//! Tests POSIX ACLs and other attributes of the host that a branch does not show.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use agentfs_core::{Access, ApplyMode, Caller, Errno, RenameFlags, XattrFlags};
use rustix::fs::XattrFlags as Host;

use crate::support::{World, left_out};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The number that the ACLs name as a user and as a group; `GROUP` is the owning group.
const NAMED: u32 = 4711;
const GROUP: u32 = 4712;

/// One entry of an ACL: what setfacl calls `u::`, `u:4711:`, `g::`, `g:4711:`, `m::` and `o::`.
#[derive(Clone, Copy)]
enum Entry {
    Owner(u16),
    User(u16),
    Group(u16),
    Named(u16),
    Mask(u16),
    Other(u16),
}

fn acl(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for entry in entries {
        let (tag, bits, id) = match *entry {
            Entry::Owner(bits) => (1_u16, bits, u32::MAX),
            Entry::User(bits) => (2, bits, NAMED),
            Entry::Group(bits) => (4, bits, u32::MAX),
            Entry::Named(bits) => (8, bits, NAMED),
            Entry::Mask(bits) => (16, bits, u32::MAX),
            Entry::Other(bits) => (32, bits, u32::MAX),
        };
        bytes.extend(tag.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, Host::empty()).unwrap();
}

fn value(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let len = rustix::fs::getxattr(path, name, buffer.as_mut_slice()).ok()?;
    Some(buffer[..len].to_vec())
}

/// Creates a directory whose filesystem has ACLs, and a world over it.
fn world(files: &[&str]) -> Option<(tempfile::TempDir, World)> {
    let host = tempfile::tempdir().unwrap();
    for name in files {
        fs::write(host.path().join(name), *name).unwrap();
    }
    let entries = [Entry::Owner(7), Entry::Group(5), Entry::Other(5)];
    let probe = acl(&entries);
    if let Err(errno) = rustix::fs::setxattr(host.path(), ACCESS, &probe, Host::empty()) {
        left_out("the temporary directory's filesystem has no ACLs", errno);
        return None;
    }
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let world = World::over(host.path());
    Some((host, world))
}

#[test]
fn nobody_may_more_in_a_branch_than_the_host_s_acl_allows() {
    use Entry::{Group, Mask, Named, Other, Owner, User};
    let Some((host, w)) = world(&["f"]) else {
        return;
    };
    let path = host.path().join("f");
    let in_group = Caller::new(1, GROUP);
    let named = Caller::new(NAMED, NAMED);
    let other = Caller::new(2, 2);
    if let Err(error) = chown(&path, None, Some(GROUP)) {
        return left_out("the file cannot be given to another group", error);
    }
    let read = |caller: &Caller| w.b.access(caller, "/f", Access::READ).is_ok();
    let who = || [&in_group, &named, &other].map(read);
    // Beside each ACL: whether a member of the group, the named user, and another one may read.
    let denied: [(&[Entry], [bool; 3]); 4] = [
        // The ACL shuts the owning group out; the group bits of the mode are those of the mask.
        (
            &[Owner(6), Group(0), Named(4), Mask(4), Other(0)],
            [false, false, false],
        ),
        // The ACL shuts a group out of what others may read.
        (
            &[Owner(6), Group(4), Named(0), Mask(4), Other(4)],
            [true, false, false],
        ),
        // The ACL shuts out a user, who may be in the owning group.
        (
            &[Owner(6), User(0), Group(4), Mask(4), Other(4)],
            [false, false, false],
        ),
        (
            &[Owner(6), User(6), Group(4), Mask(6), Other(4)],
            [true, true, true],
        ),
    ];
    for (entries, expected) in denied {
        set(&path, ACCESS, &acl(entries));
        assert_eq!(who(), expected, "{:o}", fs::metadata(&path).unwrap().mode());
    }
    // Only the owner may write, although the mask would let others write, too.
    let write = |caller| w.b.access(caller, "/f", Access::WRITE);
    assert_eq!(write(&in_group), Err(Errno::EACCES));
    assert_eq!(w.b.stat(&w.root, "/f").unwrap().mode, 0o644);
    // The same holds by node number, as a mount asks, and after some time.
    let node = w.b.stat(&w.root, "/f").unwrap().node;
    assert_eq!(w.b.getattr(node).unwrap().mode, 0o644);
    rustix::fs::removexattr(&path, ACCESS).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    assert_eq!(w.b.stat(&w.root, "/f").unwrap().mode, 0o664);
}

const NARROW: [Entry; 5] = [
    Entry::Owner(6),
    Entry::User(6),
    Entry::Group(4),
    Entry::Mask(6),
    Entry::Other(0),
];

#[test]
fn a_directory_s_acl_holds_too() {
    let Some((host, w)) = world(&[]) else { return };
    let dir = host.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "f").unwrap();
    use Entry::{Group, Mask, Named, Other, Owner};
    set(
        &dir,
        ACCESS,
        &acl(&[Owner(7), Group(5), Named(0), Mask(5), Other(5)]),
    );
    let named = Caller::new(NAMED, NAMED);
    assert_eq!(w.b.stat(&named, "/dir/f"), Err(Errno::EACCES));
    assert_eq!(w.b.stat(&w.root, "/dir").unwrap().mode, 0o750);
}

#[test]
fn what_is_written_keeps_its_acl_and_what_the_branch_does_not_show() {
    let Some((host, w)) = world(&["f", "saved"]) else {
        return;
    };
    let narrow = acl(&NARROW);
    let at = |name: &str| host.path().join(name);
    for name in ["f", "saved"] {
        set(&at(name), ACCESS, &narrow);
        set(&at(name), "user.theirs", b"theirs");
        set(&at(name), "user.removed", b"removed");
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        set(&at("f"), "trusted.theirs", b"theirs");
        // The attribute is cap_net_raw, which was given to a program with another content.
        let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        set(&at("f"), "security.capability", &capability);
    }
    assert_eq!(w.b.stat(&w.root, "/f").unwrap().mode, 0o640);
    w.put("/f", "changed");
    w.b.setxattr(&w.root, "/f", true, b"user.mine", b"mine", XattrFlags::ANY)
        .unwrap();
    w.b.removexattr(&w.root, "/f", true, b"user.removed")
        .unwrap();
    // The file is saved as an editor does it, with the mode that the editor saw.
    w.put("/temporary", "saved anew");
    w.b.chmod(&w.root, "/temporary", 0o640).unwrap();
    w.b.rename(&w.root, "/temporary", "/saved", RenameFlags::REPLACE)
        .unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(fs::read_to_string(at("f")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(at("saved")).unwrap(), "saved anew");
    for name in ["f", "saved"] {
        assert_eq!(
            value(&at(name), ACCESS).as_deref(),
            Some(&*narrow),
            "{name}"
        );
        let mode = fs::metadata(at(name)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o660, "{name}: the mask");
    }
    let found = |name: &str| value(&at("f"), name);
    assert_eq!(found("user.theirs").as_deref(), Some(&b"theirs"[..]));
    assert_eq!(found("user.mine").as_deref(), Some(&b"mine"[..]));
    assert_eq!(found("user.removed"), None);
    assert_eq!(value(&at("saved"), "user.theirs"), None, "another file");
    if is_root {
        assert_eq!(found("trusted.theirs").as_deref(), Some(&b"theirs"[..]));
        assert_eq!(found("security.capability"), None);
    }
    assert!(w.b.apply(ApplyMode::DryRun).unwrap().actions.is_empty());
}

#[test]
fn a_chmod_in_the_branch_changes_the_acl_as_the_kernel_does() {
    let Some((host, w)) = world(&["f", "g"]) else {
        return;
    };
    let at = |name: &str| host.path().join(name);
    for name in ["f", "g"] {
        set(&at(name), ACCESS, &acl(&NARROW));
    }
    fs::create_dir(at("dir")).unwrap();
    use Entry::{Group, Mask, Other, Owner, User};
    let of_dir = acl(&[Owner(7), User(7), Group(5), Mask(7), Other(0)]);
    set(&at("dir"), ACCESS, &of_dir);
    // Only the owner's bits change: the mask stays.
    w.b.chmod(&w.root, "/f", 0o740).unwrap();
    w.b.chmod(&w.root, "/dir", 0o550).unwrap();
    // The group's bits are the mask.
    w.b.chmod(&w.root, "/g", 0o600).unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    let expected = [Owner(7), User(6), Group(4), Mask(6), Other(0)];
    assert_eq!(value(&at("f"), ACCESS), Some(acl(&expected)));
    let expected = [Owner(6), User(6), Group(4), Mask(0), Other(0)];
    assert_eq!(value(&at("g"), ACCESS), Some(acl(&expected)));
    let expected = [Owner(5), User(7), Group(5), Mask(7), Other(0)];
    assert_eq!(value(&at("dir"), ACCESS), Some(acl(&expected)));
}

#[test]
fn what_is_new_gets_the_default_acl_of_its_directory() {
    let Some((host, w)) = world(&[]) else { return };
    let dir = host.path().join("dir");
    fs::create_dir(&dir).unwrap();
    use Entry::{Group, Mask, Other, Owner, User};
    let entries = [Owner(7), User(7), Group(7), Mask(7), Other(5)];
    set(&dir, DEFAULT, &acl(&entries));
    w.put("/dir/f", "new");
    w.mkdir("/dir/sub");
    w.put("/dir/sub/f", "new");
    w.b.chmod(&w.root, "/dir/f", 0o640).unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    let expected = [Owner(6), User(7), Group(7), Mask(4), Other(0)];
    assert_eq!(value(&dir.join("f"), ACCESS), Some(acl(&expected)));
    assert_eq!(value(&dir.join("sub"), DEFAULT), Some(acl(&entries)));
    let deep = value(&dir.join("sub/f"), ACCESS).unwrap();
    assert_eq!(deep, acl(&[Owner(6), User(7), Group(7), Mask(4), Other(4)]));
}

#[test]
fn a_new_file_is_not_wider_than_the_default_acl_of_its_directory() {
    let Some((host, w)) = world(&[]) else { return };
    let dir = host.path().join("dir");
    fs::create_dir(&dir).unwrap();
    use Entry::{Group, Mask, Other, Owner, User};
    let entries = [Owner(7), User(7), Group(0), Mask(7), Other(0)];
    set(&dir, DEFAULT, &acl(&entries));
    w.put("/dir/f", "new");
    w.mkdir("/dir/sub");
    w.b.chmod(&w.root, "/dir/f", 0o644).unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("f") & 0o007, 0, "others have nothing there");
    assert_eq!(mode("sub") & 0o007, 0, "others have nothing there");
    let expected = [Owner(6), User(7), Group(0), Mask(4), Other(0)];
    assert_eq!(value(&dir.join("f"), ACCESS), Some(acl(&expected)));
}
