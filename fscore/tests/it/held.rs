//! Tests that a file that is open, or was looked up to be opened, can be used when the host has
//! replaced or removed it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use agentfs_core::id::NodeId;
use agentfs_core::{ApplyMode, Errno, OpenFlags, Seek};

use crate::support::World;

const OLD: &str = "the old text of the host\n";
const NEW: &str = "THE NEW TEXT OF THE HOST, WHICH IS LONGER\n";

fn lower() -> (tempfile::TempDir, World) {
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("f"), OLD).unwrap();
    let world = World::over(host.path());
    (host, world)
}

fn replace(host: &Path) {
    fs::write(host.join("beside"), NEW).unwrap();
    fs::rename(host.join("beside"), host.join("f")).unwrap();
}

fn remove(host: &Path) {
    fs::remove_file(host.join("f")).unwrap();
}

const WAYS: [fn(&Path); 2] = [replace, remove];

fn node(w: &World, name: &[u8]) -> NodeId {
    w.b.lookup(&w.root, NodeId::ROOT, name).unwrap().node
}

fn number_of(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_handle_goes_on_with_the_file_that_it_opened() {
    for take_away in WAYS {
        let (host, w) = lower();
        let handle = w.b.open(&w.root, "/f", OpenFlags::READ, 0).unwrap();
        take_away(host.path());
        let mut text = vec![0; 100];
        let read = w.b.read(&w.root, handle, &mut text).unwrap();
        assert_eq!(&text[..read], OLD.as_bytes());
        let attr = w.b.fstat(handle).unwrap();
        assert_eq!((attr.size, attr.nlink), (OLD.len() as u64, 0));
        assert_eq!(w.b.getattr(attr.node).unwrap(), attr);
        let end = i64::try_from(OLD.len()).unwrap();
        assert_eq!(w.b.seek(handle, Seek::End(0)), Ok(OLD.len() as u64));
        assert_eq!(w.b.seek(handle, Seek::Data(0)), Ok(0));
        assert_eq!(w.b.seek(handle, Seek::Data(end)), Err(Errno::ENXIO));
        let all = w.b.next_data(handle, 0).unwrap();
        assert_eq!(all, Some(0..OLD.len() as u64));
        w.put("/copy", "");
        let copy = w.open("/copy");
        let (from, to) = ((handle, 0), (copy, 0));
        w.b.copy_range(&w.root, from, to, 100).unwrap();
        assert_eq!(w.get("/copy"), OLD);
        // It is no file of the branch any more.
        w.b.close(&w.root, handle).unwrap();
        assert_eq!(w.b.getattr(attr.node), Err(Errno::ESTALE));
    }
}

#[test]
fn the_number_of_a_file_that_is_open_is_not_taken_for_another_one() {
    let (host, w) = lower();
    for round in 0..20 {
        let handle = w.b.open(&w.root, "/f", OpenFlags::READ, 0).unwrap();
        let old = w.b.fstat(handle).unwrap().node;
        remove(host.path());
        let name = format!("another-{round}");
        fs::write(host.path().join(&name), NEW).unwrap();
        assert_ne!(node(&w, name.as_bytes()), old);
        let mut text = vec![0; 100];
        let read = w.b.read_at(&w.root, handle, 0, &mut text).unwrap();
        assert_eq!(&text[..read], OLD.as_bytes());
        w.b.close(&w.root, handle).unwrap();
        fs::write(host.path().join("f"), OLD).unwrap();
    }
}

#[test]
fn a_file_that_was_applied_is_not_read_as_it_was_before() {
    let (host, w) = lower();
    let handle = w.open("/f");
    w.b.ftruncate(&w.root, handle, 0).unwrap();
    w.b.write_at(&w.root, handle, 0, b"mine").unwrap();
    w.b.apply(ApplyMode::Refuse).unwrap();
    assert_eq!(fs::read_to_string(host.path().join("f")).unwrap(), "mine");
    let mut text = vec![0; 100];
    let read = w.b.read_at(&w.root, handle, 0, &mut text).unwrap();
    assert_eq!(&text[..read], b"mine");
}

#[test]
fn what_is_gone_is_opened_only_if_it_is_held() {
    for take_away in WAYS {
        let (host, w) = lower();
        let (shown, held) = w.b.show_and_hold(&w.root, NodeId::ROOT, b"f").unwrap();
        let node = shown.attr.node;
        assert_eq!(shown.attr.size, OLD.len() as u64);
        take_away(host.path());
        let by_number = w.b.open_node(&w.root, node, OpenFlags::READ);
        assert_eq!(by_number, Err(Errno::ESTALE), "a name leads to another");
        let handle = w.b.open_held(&w.root, node, OpenFlags::READ).unwrap();
        assert_eq!(w.b.show_node(node).unwrap().attr.nlink, 0);
        drop(held);
        let mut text = vec![0; 100];
        let read = w.b.read_at(&w.root, handle, 0, &mut text).unwrap();
        assert_eq!(&text[..read], OLD.as_bytes());
        w.b.close(&w.root, handle).unwrap();
        let unheld = w.b.open_held(&w.root, node, OpenFlags::READ);
        assert_eq!(unheld, Err(Errno::ESTALE));
    }
}

#[test]
fn a_link_that_is_held_keeps_its_text() {
    let (host, w) = lower();
    symlink("f", host.path().join("link")).unwrap();
    let (shown, held) = w.b.show_and_hold(&w.root, NodeId::ROOT, b"link").unwrap();
    assert!(held.is_some());
    fs::remove_file(host.path().join("link")).unwrap();
    let text = w.b.readlink_node(shown.attr.node).unwrap();
    assert_eq!(&*text, b"f");
}

#[test]
fn what_is_written_to_a_file_that_is_gone_and_was_cut_has_no_name() {
    let (host, w) = lower();
    let (shown, held) = w.b.show_and_hold(&w.root, NodeId::ROOT, b"f").unwrap();
    let node = shown.attr.node;
    replace(host.path());
    let flags = OpenFlags::READ_WRITE | OpenFlags::TRUNCATE;
    let handle = w.b.open_held(&w.root, node, flags).unwrap();
    drop(held);
    w.b.write_at(&w.root, handle, 0, b"mine").unwrap();
    let mut text = vec![0; 100];
    let read = w.b.read_at(&w.root, handle, 0, &mut text).unwrap();
    assert_eq!(&text[..read], b"mine");
    assert_eq!(w.get("/f"), NEW);
    let actions = w.b.apply(ApplyMode::DryRun).unwrap().actions;
    assert!(actions.is_empty(), "{actions:?}");
    w.b.close(&w.root, handle).unwrap();
    assert_eq!(w.b.getattr(node), Err(Errno::ESTALE));
    assert_eq!(w.get("/f"), NEW);
}

/// A file that is there is cut as any other, whether it is held or not.
#[test]
fn a_file_that_is_there_is_cut_by_its_name() {
    let (_host, w) = lower();
    let (shown, _held) = w.b.show_and_hold(&w.root, NodeId::ROOT, b"f").unwrap();
    let flags = OpenFlags::READ_WRITE | OpenFlags::TRUNCATE;
    let handle = w.b.open_held(&w.root, shown.attr.node, flags).unwrap();
    w.b.close(&w.root, handle).unwrap();
    assert_eq!(w.get("/f"), "");
}

#[test]
fn no_operation_by_a_path_fails_because_the_host_replaces() {
    let (host, w) = lower();
    let link = host.path().join("link");
    symlink("f", &link).unwrap();
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            for _ in 0..3000 {
                replace(host.path());
                let beside = host.path().join("beside link");
                symlink("f", &beside).unwrap();
                fs::rename(beside, &link).unwrap();
            }
        });
        while !replacing.is_finished() {
            for path in ["/f", "/link"] {
                w.b.stat(&w.root, path).unwrap();
                w.b.lstat(&w.root, path).unwrap();
                let text = w.get(path);
                assert!(text == OLD || text == NEW, "{text:?}");
            }
            assert_eq!(&*w.b.readlink(&w.root, "/link").unwrap(), b"f");
            let found = w.b.show(&w.root, NodeId::ROOT, b"link").unwrap();
            assert!(found.attr.mode & 0o777 == 0o777);
        }
    });
    assert_eq!(w.get("/f"), NEW);
}

/// A program that was led to a file by its name must not get another one that has taken the number.
#[test]
fn a_number_that_the_host_gives_again_is_another_node_by_another_name() {
    for is_listed in [false, true] {
        let (host, w) = lower();
        let old = node(&w, b"f");
        let number = number_of(&host.path().join("f"));
        let Ok(born) = fs::metadata(host.path().join("f")).unwrap().created() else {
            // This filesystem does not record it.
            return;
        };
        remove(host.path());
        // The time of birth is as coarse as the kernel's clock.
        let born_later = host.path().join("g");
        let is_again = (0..100).any(|_| {
            fs::write(&born_later, NEW).unwrap();
            let birth = fs::metadata(&born_later).unwrap().created().unwrap();
            let is_again = number_of(&born_later) == number && birth > born;
            if !is_again {
                fs::remove_file(&born_later).unwrap();
            }
            is_again
        });
        if !is_again {
            // This filesystem does not give the number again.
            return;
        }
        if is_listed {
            w.names("/");
        }
        assert_ne!(node(&w, b"g"), old);
        assert_eq!(w.b.getattr(old), Err(Errno::ESTALE));
        assert_eq!(w.get("/g"), NEW);
    }
}
