//! POSIX ACLs of the host's objects: which permission bits an ACL takes from the mode that is
//! shown.
//!
//! A branch serves no ACLs, so the permission bits alone decide what a caller may do. Where an
//! object has an access ACL, its group bits are the ACL's mask, which is the most that any entry
//! gives, and members of the owning group, of a named group, or a named user may have less. What a
//! branch shows is therefore the least that any member of a class has: some users are denied what
//! the host allows them, and none is allowed what the host denies.

use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno as HostErrno;

use crate::lower::beneath;

const NAME: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// `linux/posix_acl_xattr.h`: a version, then entries of tag, permissions and id, little-endian.
const VERSION: [u8; 4] = [2, 0, 0, 0];
const ENTRY: usize = 8;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What an object's ACL takes from its permission bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    /// These bits.
    Bits(u32),
    /// The filesystem has no ACLs.
    Unsupported,
    /// The ACL cannot be read, so only the owner's bits are shown.
    Unknown,
}

/// Returns what the object's ACL takes from `mode`, the permission bits of its stat. The name is
/// empty for the directory itself.
pub(super) fn taken(dir: &OwnedFd, name: &[u8], mode: u32) -> Taken {
    // The usual ACL has a handful of entries.
    let mut buffer = [0; 512];
    match read(dir, name, &mut buffer) {
        Ok(len) => of_acl(&buffer[..len], mode),
        Err(HostErrno::NODATA) => Taken::Bits(0),
        Err(HostErrno::OPNOTSUPP) => Taken::Unsupported,
        Err(HostErrno::RANGE) => {
            let mut buffer = vec![0; 1 << 16];
            match read(dir, name, &mut buffer) {
                Ok(len) => of_acl(&buffer[..len], mode),
                Err(_) => Taken::Unknown,
            }
        }
        Err(_) => Taken::Unknown,
    }
}

/// Returns the most permission bits that a new object in a directory may have: those that the
/// directory's default ACL leaves (acl(5), "OBJECT CREATION AND DEFAULT ACLs"). If the ACL cannot
/// be read, those are only the owner's.
pub(crate) fn most_for_new(dir: &OwnedFd) -> u32 {
    let mut buffer = vec![0; 1 << 16];
    match rustix::fs::fgetxattr(dir, DEFAULT, buffer.as_mut_slice()) {
        Ok(len) => left_by(&buffer[..len]),
        Err(HostErrno::NODATA | HostErrno::OPNOTSUPP) => 0o7777,
        Err(_) => 0o7700,
    }
}

/// Returns what a default ACL leaves of a mode.
fn left_by(acl: &[u8]) -> u32 {
    let Some(entries) = acl.strip_prefix(&VERSION) else {
        return 0o7700;
    };
    let bits_of = |wanted: u16| {
        let mut all = entries.chunks_exact(ENTRY).map(tag_and_bits);
        all.find(|(tag, _)| *tag == wanted).map(|(_, bits)| bits)
    };
    let group = bits_of(MASK).or_else(|| bits_of(GROUP_OBJ)).unwrap_or(0);
    0o7000 | bits_of(USER_OBJ).unwrap_or(7) << 6 | group << 3 | bits_of(OTHER).unwrap_or(0)
}

/// Reads an ACL by the directory's descriptor and the last component alone, so that no path leads
/// out of the lower directory. Linux has no such system call before 6.13; going through /proc needs
/// no right to read the file.
fn read(dir: &OwnedFd, name: &[u8], buffer: &mut [u8]) -> Result<usize, HostErrno> {
    if name.is_empty() {
        return rustix::fs::fgetxattr(dir, NAME, buffer);
    }
    let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    match rustix::fs::lgetxattr(&*path, NAME, &mut *buffer) {
        // There is no /proc.
        Err(HostErrno::NOENT) => {
            let fd = beneath::open(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
                .or_else(|_| open_file(dir, name))?;
            rustix::fs::fgetxattr(fd, NAME, buffer)
        }
        other => other,
    }
}

/// Opens a file, and nothing else: opening a FIFO or a device has effects of its own.
fn open_file(dir: &OwnedFd, name: &[u8]) -> Result<OwnedFd, HostErrno> {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    let mode = rustix::fs::statat(dir, name, flags)?.st_mode;
    if !rustix::fs::FileType::from_raw_mode(mode).is_file() {
        return Err(HostErrno::OPNOTSUPP);
    }
    beneath::open(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)
}

fn of_acl(acl: &[u8], mode: u32) -> Taken {
    let Some(entries) = acl.strip_prefix(&VERSION) else {
        return Taken::Unknown;
    };
    let entries = || entries.chunks_exact(ENTRY).map(tag_and_bits);
    let mask = entries().find(|(tag, _)| *tag == MASK);
    let mask = mask.map_or(7, |(_, bits)| bits);
    let (mut group, mut other) = (mode >> 3 & 7, mode & 7);
    for (tag, bits) in entries() {
        match tag {
            // A member of the owning group with an entry by name gets that entry's bits, and no
            // more.
            USER => (group, other) = (group & bits & mask, other & bits & mask),
            GROUP_OBJ => group &= bits & mask,
            // A user that is in the owning group as well gets the bits of one of the two groups.
            GROUP => other &= bits & mask,
            _ => {}
        }
    }
    Taken::Bits(mode & 0o077 & !(group << 3 | other))
}

/// Returns the tag of an entry, and its permissions.
fn tag_and_bits(entry: &[u8]) -> (u16, u32) {
    let [tag, tag_high, bits, bits_high, ..] = *entry else {
        return (0, 0);
    };
    let tag = u16::from_le_bytes([tag, tag_high]);
    (tag, u32::from(u16::from_le_bytes([bits, bits_high])) & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mode: u32, entries: &[(u16, u16)]) -> u32 {
        let mut acl = VERSION.to_vec();
        for (tag, bits) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(bits.to_le_bytes());
            acl.extend(1000_u32.to_le_bytes());
        }
        let Taken::Bits(taken) = of_acl(&acl, mode) else {
            return 0;
        };
        mode & !taken
    }

    #[test]
    fn nobody_is_shown_more_than_the_least_of_the_class() {
        // The mask is not what the owning group has.
        let with_user = [
            (USER_OBJ, 6),
            (USER, 6),
            (GROUP_OBJ, 4),
            (MASK, 6),
            (OTHER, 0),
        ];
        assert_eq!(shown(0o660, &with_user), 0o640);
        // A group that is shut out: its members would be others.
        let shut_out = [
            (USER_OBJ, 6),
            (GROUP_OBJ, 4),
            (GROUP, 0),
            (MASK, 4),
            (OTHER, 4),
        ];
        assert_eq!(shown(0o644, &shut_out), 0o640);
        // A user that is shut out may be in the owning group.
        let shut_out = [
            (USER_OBJ, 6),
            (USER, 0),
            (GROUP_OBJ, 4),
            (MASK, 4),
            (OTHER, 4),
        ];
        assert_eq!(shown(0o644, &shut_out), 0o600);
        // Without rights for the owning group.
        let no_group = [
            (USER_OBJ, 6),
            (GROUP_OBJ, 0),
            (GROUP, 4),
            (MASK, 4),
            (OTHER, 0),
        ];
        assert_eq!(shown(0o640, &no_group), 0o600);
        // The mask takes from the named ones also what others have.
        let masked = [
            (USER_OBJ, 6),
            (USER, 6),
            (GROUP_OBJ, 4),
            (MASK, 0),
            (OTHER, 4),
        ];
        assert_eq!(shown(0o604, &masked), 0o600);
        // No more than the mode says.
        let plain = [(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 4)];
        assert_eq!(shown(0o644, &plain), 0o644);
    }

    #[test]
    fn what_is_no_acl_says_nothing() {
        for acl in [&b""[..], &[1, 0, 0, 0]] {
            assert_eq!(of_acl(acl, 0o644), Taken::Unknown);
        }
    }
}
