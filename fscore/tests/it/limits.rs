//! Tests that an operation that reaches a limit fails and leaves nothing half done.

use agentfs_core::{
    AllocateFlags, ConfigError, Errno, FsConfig, FsCore, FsLimits, OpenFlags, Permissions,
};

use crate::support::World;

fn with(change: impl FnOnce(&mut FsLimits)) -> World {
    let mut config = FsConfig::default();
    change(&mut config.limits);
    World::with(config)
}

#[test]
fn nodes() {
    let w = with(|limits| limits.nodes = 3);
    w.mkdir("/a");
    w.put("/b", "");
    let recorder = w.listen(false);
    assert_eq!(w.b.mkdir(&w.root, "/c", 0o755), Err(Errno::ENOSPC));
    assert_eq!(
        w.b.open(&w.root, "/c", OpenFlags::CREATE, 0).unwrap_err(),
        Errno::ENOSPC
    );
    assert!(recorder.lines().is_empty());
    assert_eq!(w.names("/"), ["a", "b"]);
    w.b.unlink(&w.root, "/b").unwrap();
    w.mkdir("/c");
}

#[test]
fn bytes() {
    let w = with(|limits| limits.bytes = 4 * 4096);
    w.put("/f", &"x".repeat(3 * 4096));
    let h = w.open("/f");
    let recorder = w.listen(false);
    assert_eq!(
        w.b.write_at(&w.root, h, 3 * 4096, &[1; 4097]),
        Err(Errno::ENOSPC)
    );
    assert_eq!(
        w.b.fallocate(&w.root, h, AllocateFlags::GROW, 0, 5 * 4096),
        Err(Errno::ENOSPC)
    );
    assert!(recorder.lines().is_empty());
    assert_eq!(w.b.fstat(h).unwrap().size, 3 * 4096);
    assert_eq!(w.b.write_at(&w.root, h, 0, &[1; 4 * 4096]), Ok(4 * 4096));
    assert_eq!(w.b.statfs().blocks_free, 0);
    w.b.ftruncate(&w.root, h, 1).unwrap();
    assert_eq!(w.b.statfs().blocks_free, 3);
    w.b.close(&w.root, h).unwrap();
    w.b.unlink(&w.root, "/f").unwrap();
    assert_eq!(w.b.statfs().blocks_free, 4);
}

#[test]
fn handles() {
    let w = with(|limits| limits.open_handles = 1);
    w.put("/f", "");
    let h = w.open("/f");
    let refused = w.b.open(&w.root, "/new", OpenFlags::CREATE, 0o600);
    assert_eq!(refused.unwrap_err(), Errno::EMFILE);
    assert_eq!(w.names("/"), ["f"]);
    w.b.close(&w.root, h).unwrap();
    w.open("/f");
}

#[test]
fn branches_snapshots_and_names() {
    let w = with(|limits| {
        limits.branches = 2;
        limits.snapshots = 1;
        limits.name_length = 4;
    });
    let s = w.fs.snapshot_create(&w.root, FsCore::MAIN, "").unwrap();
    assert_eq!(
        w.fs.snapshot_create(&w.root, FsCore::MAIN, ""),
        Err(Errno::ENOSPC)
    );
    w.fs.branch_create_from_snapshot(&w.root, s, "").unwrap();
    assert_eq!(
        w.fs.branch_create_from_snapshot(&w.root, s, ""),
        Err(Errno::ENOSPC)
    );
    w.mkdir("/four");
    assert_eq!(
        w.b.mkdir(&w.root, "/fives", 0o755),
        Err(Errno::ENAMETOOLONG)
    );
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_a_reason() {
    let refused = |change: fn(&mut FsConfig)| {
        let mut config = FsConfig::default();
        change(&mut config);
        FsCore::new(config).unwrap_err()
    };
    assert_eq!(
        refused(|c| c.limits.nodes = 0),
        ConfigError::ZeroLimit("nodes")
    );
    assert_eq!(
        refused(|c| c.limits.name_length = 256),
        ConfigError::NameLength(256)
    );
    let mode = Permissions {
        root_mode: 0o10_000,
        ..Permissions::default()
    };
    let mut config = FsConfig {
        permissions: mode,
        ..FsConfig::default()
    };
    assert_eq!(
        FsCore::new(config.clone()).unwrap_err(),
        ConfigError::RootMode(0o10_000)
    );
    config.permissions = Permissions::default();
    config.overlay = Some(agentfs_core::Overlay {
        lower: "/nowhere/at/all".into(),
    });
    let error = FsCore::new(config).unwrap_err().to_string();
    assert!(
        error.contains("/nowhere/at/all") && error.contains("ENOENT"),
        "{error}"
    );
}
