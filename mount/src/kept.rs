//! A mount that outlives its server: the descriptor, and what the next server has to know.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use agentfs_core::id::BranchId;
use fuser::InitFlags;

/// The first bytes of a [`SavedMount`] as bytes; the last one is the version.
const MAGIC: [u8; 4] = *b"AFM\x01";
/// Everything before the path.
const FIXED: usize = 56;
const ELSEWHERE: u8 = 1;
const OTHERS: u8 = 2;
const GROUP: u8 = 4;

/// A mount that no process needs to serve at the moment. As long as the descriptor is open, programs
/// that use the mount wait; when the last copy of it is closed, they get `ENOTCONN`.
#[derive(Debug)]
pub struct Kept {
    /// `/dev/fuse`.
    pub device: OwnedFd,
    /// What the next server has to know.
    pub saved: SavedMount,
    /// The connection to the keeper that passed it on. The keeper takes the end of this connection for
    /// the end of the server.
    pub(crate) keeper: Option<UnixStream>,
}

impl Kept {
    /// Returns a mount as it was kept by other means than a [keeper](crate::take), such as the file
    /// descriptor store of systemd.
    #[must_use]
    pub fn new(device: OwnedFd, saved: SavedMount) -> Self {
        Self {
            device,
            saved,
            keeper: None,
        }
    }
}

/// What a server has to know to go on with a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedMount {
    /// The branch that it shows.
    pub branch: BranchId,
    /// Where it is, in the mount namespace in which it was made.
    pub point: PathBuf,
    /// The device number of its files: `st_dev`.
    pub device: u64,
    /// Whether it is in another mount namespace than that of its first server.
    pub(crate) is_elsewhere: bool,
    /// See [`Unserved::group`](crate::Unserved::group).
    pub(crate) group: Option<u32>,
    pub(crate) lets_others_in: bool,
    pub(crate) negotiated: Negotiated,
    /// How many servers went before: tells their handles from those of the present one.
    pub(crate) generation: u16,
}

/// What the first server and the kernel agreed upon, once for the life of the mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Negotiated {
    pub(crate) minor: u32,
    pub(crate) max_write: u32,
    pub(crate) flags: u64,
}

impl Negotiated {
    /// Returns whether the kernel can send requests again. Without that, programs that wait for an
    /// answer when their server ends would wait for ever.
    pub(crate) fn can_resend(self) -> bool {
        self.flags & InitFlags::FUSE_HAS_RESEND.bits() != 0
    }
}

/// Some bytes are no [`SavedMount`]; another version may have written them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotSaved;

impl fmt::Display for NotSaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "what is known of a mount is not in the form of this version: \
             end the mount with `agentfs umount DIR`, and mount again",
        )
    }
}

impl std::error::Error for NotSaved {}

impl SavedMount {
    /// Returns what the server after the next one has to know.
    pub(crate) fn next(&self) -> Self {
        Self {
            // A number that is used again is long out of use.
            generation: self.generation.wrapping_add(1),
            ..self.clone()
        }
    }

    /// Returns it as bytes, little-endian: magic and version (4), flags (1), zero (1), generation (2),
    /// minor version (4), largest write (4), flags of INIT (8), device (8), branch (8), group (4),
    /// zero (4), length of the path (8), path.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let path = self.point.as_os_str().as_bytes();
        let mut flags = 0;
        for (flag, is_set) in [
            (ELSEWHERE, self.is_elsewhere),
            (OTHERS, self.lets_others_in),
            (GROUP, self.group.is_some()),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        let mut bytes = Vec::with_capacity(FIXED + path.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[flags, 0]);
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.negotiated.minor.to_le_bytes());
        bytes.extend_from_slice(&self.negotiated.max_write.to_le_bytes());
        bytes.extend_from_slice(&self.negotiated.flags.to_le_bytes());
        bytes.extend_from_slice(&self.device.to_le_bytes());
        bytes.extend_from_slice(&self.branch.0.to_le_bytes());
        bytes.extend_from_slice(&self.group.unwrap_or_default().to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(path.len() as u64).to_le_bytes());
        bytes.extend_from_slice(path);
        bytes
    }

    /// Returns what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// [`NotSaved`] when these bytes are something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotSaved> {
        let (magic, mut rest) = bytes.split_first_chunk().ok_or(NotSaved)?;
        let [flags, 0] = take(&mut rest)? else {
            return Err(NotSaved);
        };
        if *magic != MAGIC || flags & !(ELSEWHERE | OTHERS | GROUP) != 0 {
            return Err(NotSaved);
        }
        let generation = u16::from_le_bytes(take(&mut rest)?);
        let negotiated = Negotiated {
            minor: u32::from_le_bytes(take(&mut rest)?),
            max_write: u32::from_le_bytes(take(&mut rest)?),
            flags: u64::from_le_bytes(take(&mut rest)?),
        };
        let device = u64::from_le_bytes(take(&mut rest)?);
        let branch = BranchId(u64::from_le_bytes(take(&mut rest)?));
        let group = u32::from_le_bytes(take(&mut rest)?);
        let [0, 0, 0, 0] = take(&mut rest)? else {
            return Err(NotSaved);
        };
        let length = u64::from_le_bytes(take(&mut rest)?);
        if rest.len() as u64 != length || rest.contains(&0) {
            return Err(NotSaved);
        }
        Ok(Self {
            branch,
            point: OsString::from_vec(rest.to_vec()).into(),
            device,
            is_elsewhere: flags & ELSEWHERE != 0,
            group: (flags & GROUP != 0).then_some(group),
            lets_others_in: flags & OTHERS != 0,
            negotiated,
            generation,
        })
    }
}

/// Takes the first bytes off.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], NotSaved> {
    let (first, others) = rest.split_first_chunk().ok_or(NotSaved)?;
    *rest = others;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> SavedMount {
        SavedMount {
            branch: BranchId(7),
            point: "/mnt/with\nline".into(),
            device: 0x2_0000_0033,
            is_elsewhere: true,
            group: Some(0),
            lets_others_in: false,
            negotiated: Negotiated {
                minor: 45,
                max_write: 1 << 20,
                flags: 1 << 39,
            },
            generation: 3,
        }
    }

    #[test]
    fn what_is_saved_comes_back() {
        let (elsewhere, here) = (
            saved(),
            SavedMount {
                is_elsewhere: false,
                group: None,
                lets_others_in: true,
                ..saved()
            },
        );
        for it in [elsewhere, here] {
            assert_eq!(SavedMount::from_bytes(&it.to_bytes()), Ok(it));
        }
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_refused() {
        let bytes = saved().to_bytes();
        assert_eq!(bytes.len(), FIXED + saved().point.as_os_str().len());
        for length in 0..bytes.len() {
            assert_eq!(SavedMount::from_bytes(&bytes[..length]), Err(NotSaved));
        }
        for at in [3, 4, 5] {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            assert_eq!(SavedMount::from_bytes(&changed), Err(NotSaved), "byte {at}");
        }
    }
}
