//! Only Linux keeps POSIX ACLs where the permission bits do not tell of them.

use rustix::fd::OwnedFd;

/// What an object's ACL takes from its permission bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(dead_code, reason = "the others are found on Linux")]
pub(super) enum Taken {
    /// These bits.
    Bits(u32),
    /// The filesystem has no ACLs.
    Unsupported,
    /// It cannot be found out.
    Unknown,
}

/// Nothing.
pub(super) fn taken(_: &OwnedFd, _: &[u8], _: u32) -> Taken {
    Taken::Unsupported
}

/// The most permission bits that a new object in a directory may have.
pub(crate) fn most_for_new(_: &OwnedFd) -> u32 {
    0o7777
}
