//! Tests a filesystem whose branches must not change any more.

use agentfs_core::{Errno, FsCore, OpenFlags, SetAttr};

use crate::support::World;

#[test]
fn a_sealed_filesystem_refuses_every_change_and_can_be_read() {
    let w = World::new();
    w.put("/f", "one");
    let open = w.open("/f");
    let snapshot =
        w.fs.snapshot_create(&w.root, FsCore::MAIN, "before")
            .unwrap();
    w.fs.seal();
    let refused = Err(Errno::EROFS);
    assert_eq!(w.b.write_at(&w.root, open, 0, b"two"), Err(Errno::EROFS));
    assert_eq!(w.b.ftruncate(&w.root, open, 0), refused);
    assert_eq!(w.b.mkdir(&w.root, "/d", 0o755).map(drop), refused);
    assert_eq!(w.b.rename(&w.root, "/f", "/g", Default::default()), refused);
    assert_eq!(w.b.unlink(&w.root, "/f"), refused);
    assert_eq!(w.b.chmod(&w.root, "/f", 0o600), refused);
    let node = w.b.stat(&w.root, "/f").unwrap().node;
    let changed = w.b.setattr_node(&w.root, node, None, &SetAttr::default());
    assert_eq!(changed.map(drop), refused);
    let flags = OpenFlags::READ_WRITE;
    assert_eq!(w.b.open(&w.root, "/f", flags, 0).map(drop), refused);
    assert_eq!(w.fs.restore(&w.root, FsCore::MAIN, snapshot), refused);
    w.b.close(&w.root, open).unwrap();

    let reading = w.b.open(&w.root, "/f", OpenFlags::default(), 0).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(w.b.read_at(&w.root, reading, 0, &mut buffer), Ok(3));
    w.b.close(&w.root, reading).unwrap();
    assert_eq!(w.names("/"), ["f"]);

    w.fs.unseal();
    w.put("/f", "two");
    assert_eq!(w.get("/f"), "two");
}
