//! On other systems than Linux the permission bits show no ACL's mask, so ACLs take nothing from
//! them.

use rustix::fd::OwnedFd;

/// What an object's ACL takes from its permission bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(dead_code, reason = "the others are found on Linux")]
pub(super) enum Taken {
    /// These bits.
    Bits(u32),
    /// The filesystem has no ACLs.
    Unsupported,
    /// The ACL cannot be read.
    Unknown,
}

/// Returns that ACLs take no bits.
pub(super) fn taken(_: &OwnedFd, _: &[u8], _: u32) -> Taken {
    Taken::Unsupported
}

/// Returns the most permission bits that a new object in a directory may have.
pub(crate) fn most_for_new(_: &OwnedFd) -> u32 {
    0o7777
}
