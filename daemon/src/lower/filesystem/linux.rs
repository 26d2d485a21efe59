//! `statfs(2)` says of which kind a filesystem is.

use std::path::Path;

use super::Filesystem;

const UNKNOWN: Filesystem = Filesystem {
    name: "a filesystem of an unknown kind",
    is_local: false,
};

/// `linux/magic.h`, and those of filesystems outside of the kernel's tree.
const LOCAL: [(i128, &str); 22] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x794C_7630, "overlayfs"),
    (0x2FC1_2FC1, "zfs"),
    (0xCA45_1A4E, "bcachefs"),
    (0xF2F5_2010, "f2fs"),
    (0x5265_4973, "reiserfs"),
    (0x3153_464A, "jfs"),
    (0x3434, "nilfs2"),
    (0x4D44, "vfat"),
    (0x2011_BAB0, "exfat"),
    (0x5346_544E, "ntfs"),
    (0x7366_746E, "ntfs3"),
    (0x482B, "hfsplus"),
    (0xF15F, "ecryptfs"),
    (0x7371_7368, "squashfs"),
    (0xE0F5_E1E2, "erofs"),
    (0x9660, "iso9660"),
    (0x1501_3346, "udf"),
];

const REMOTE: [(i128, &str); 10] = [
    (0x6573_5546, "FUSE or virtiofs"),
    (0x6969, "NFS"),
    (0x0102_1997, "9p"),
    (0x517B, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB3"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x7375_7245, "Coda"),
    (0x0BD0_0BD0, "Lustre"),
];

/// Of the directory at a path. What is not known to be local counts as if it were not: it is slower,
/// and right.
pub(super) fn of(path: &Path) -> Filesystem {
    let Ok(found) = rustix::fs::statfs(path) else {
        return UNKNOWN;
    };
    // The kernel's number has 32 bits, which some systems extend with a sign.
    let kind = i128::from(found.f_type) & 0xFFFF_FFFF;
    let named = |all: &[(i128, &'static str)], is_local| {
        let (_, name) = all.iter().find(|(number, _)| *number == kind)?;
        Some(Filesystem { name, is_local })
    };
    named(&LOCAL, true)
        .or_else(|| named(&REMOTE, false))
        .unwrap_or(UNKNOWN)
}
