//! Tests the in-memory branch: names, content, metadata.

use agentfs_core::{Branch, Caller, Errno, FsConfig, FsCore, OpenFlags, RenameFlags};

fn fs() -> (Branch, Caller) {
    let fs = FsCore::new(FsConfig::default()).unwrap();
    (fs.branch(FsCore::MAIN).unwrap(), Caller::root())
}

#[test]
fn a_file_is_made_written_moved_read_and_removed() {
    let (b, root) = fs();
    b.mkdir(&root, "/d", 0o755).unwrap();
    let h = b
        .open(
            &root,
            "/d/f",
            OpenFlags::CREATE | OpenFlags::READ_WRITE,
            0o644,
        )
        .unwrap();
    assert_eq!(b.write(&root, h, b"hello").unwrap(), 5);
    b.rename(&root, "/d/f", "/g", RenameFlags::REPLACE).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(b.read_at(&root, h, 1, &mut buffer).unwrap(), 4);
    assert_eq!(&buffer[..4], b"ello");
    assert_eq!(b.stat(&root, "/g").unwrap().size, 5);
    assert_eq!(b.stat(&root, "/d/f"), Err(Errno::ENOENT));
    let names: Vec<_> = b
        .list(&root, "/")
        .unwrap()
        .into_iter()
        .map(|e| e.name.to_vec())
        .collect();
    assert_eq!(names.len(), 2);
    b.unlink(&root, "/g").unwrap();
    assert_eq!(b.read_at(&root, h, 0, &mut buffer).unwrap(), 5);
    assert_eq!(b.fstat(h).unwrap().nlink, 0);
    let node = b.node_of(h).unwrap();
    b.close(&root, h).unwrap();
    assert_eq!(b.getattr(node), Err(Errno::ESTALE));
    b.rmdir(&root, "/d").unwrap();
    assert!(b.list(&root, "/").unwrap().is_empty());
    assert_eq!(b.getattr(agentfs_core::id::NodeId::ROOT).unwrap().nlink, 2);
}
