//! Tests that what another program mounts on a mount point stays, however soon it is mounted.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentfs_core::{Caller, FsCore};
use agentfs_mount::{MountOptions, UnmountError};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::support::Fixture;

const ROUNDS: usize = 100;
/// How long the tests wait for an end that must come.
const DEADLINE: Duration = Duration::from_secs(20);

/// Unmounts as `umount` does, if this process may.
fn unmount(point: &Path) -> bool {
    match rustix::mount::unmount(point, UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => false,
        other => {
            other.unwrap();
            true
        }
    }
}

#[test]
fn what_is_mounted_right_after_an_unmount_stays() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    for round in 0..ROUNDS {
        let mounted = fixture.mount();
        let point = mounted.path("");
        if !unmount(&point) {
            return;
        }
        rustix::mount::mount("none", &point, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(point.join("f"), "").unwrap();
        assert!(mounted.handle.wait_unmounted(DEADLINE));
        assert!(point.join("f").exists(), "round {round}");
        drop(mounted.handle);
        assert!(point.join("f").exists(), "round {round}");
        assert!(unmount(&point));
    }
}

/// The new mount may have the device number of the one that is gone, and the old handle asks for
/// that number.
#[test]
fn another_branch_that_is_mounted_right_after_an_unmount_stays() {
    let (Some(one), Some(other)) = (Fixture::empty(), Fixture::empty()) else {
        return;
    };
    other
        .main()
        .mkdir(&Caller::root(), "/other", 0o755)
        .unwrap();
    for round in 0..ROUNDS {
        let mounted = one.mount();
        let point = mounted.path("");
        if !unmount(&point) {
            return;
        }
        let options = MountOptions {
            guarded: false,
            ..MountOptions::default()
        };
        let second = other.mounts.mount(FsCore::MAIN, &point, &options).unwrap();
        let late = mounted.handle.unmount(true);
        assert!(
            matches!(
                late,
                Err(UnmountError::NotMounted(_) | UnmountError::Covered(_))
            ),
            "round {round}: {late:?}"
        );
        assert!(mounted.handle.wait_unmounted(DEADLINE));
        drop(mounted.handle);
        assert!(second.is_mounted(), "round {round}");
        assert!(point.join("other").exists(), "round {round}");
        second.unmount(false).unwrap();
    }
}

/// The directory above a mount point was renamed, and another directory has its name now.
#[test]
fn nothing_is_taken_away_elsewhere_by_a_link_in_the_way() {
    let Some(fixture) = Fixture::empty() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (above, theirs) = (dir.path().join("above"), dir.path().join("theirs"));
    fs::create_dir_all(above.join("point")).unwrap();
    fs::create_dir_all(theirs.join("point")).unwrap();
    let (point, options) = (above.join("point"), MountOptions::default());
    let mount = fixture.mounts.mount(FsCore::MAIN, &point, &options);
    let mount = mount.unwrap();
    let other = fixture
        .mounts
        .mount(FsCore::MAIN, &theirs.join("point"), &options)
        .unwrap();
    fs::rename(&above, dir.path().join("renamed")).unwrap();
    std::os::unix::fs::symlink(&theirs, &above).unwrap();
    for detach in [false, true] {
        let refused = mount.unmount(detach);
        assert!(
            matches!(refused, Err(UnmountError::Covered(_))),
            "{refused:?}"
        );
    }
    assert!(other.is_mounted());
    assert!(mount.is_mounted());
    fs::remove_file(&above).unwrap();
    fs::rename(dir.path().join("renamed"), &above).unwrap();
    mount.unmount(false).unwrap();
    other.unmount(false).unwrap();
}
