//! A change of the attributes of an object of the host, which can be taken back.

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno as HostErrno;

use crate::lower::host_object::HostObject;
use crate::lower::stat::{mode_of, nanos, stat_kind};
use crate::model::attr::Nanos;
use crate::model::errno::Result;
use crate::model::event::ObjectKind;

/// The attributes that are set; `None` where one stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AttributeChange {
    /// The owner and the group. They are set where this process may set them.
    pub owner: Option<(u32, u32)>,
    /// The permissions. A change of the owner takes away bits of them, so both are set together.
    pub mode: Option<u32>,
    /// The times of the last access and of the last change of content.
    pub times: Option<(Nanos, Nanos)>,
    /// Extended attributes; one without a value is removed.
    pub xattrs: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl AttributeChange {
    /// Returns whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the change that takes this one back from an object as it is now.
    ///
    /// # Errors
    ///
    /// Those of the system calls that read the attributes.
    pub fn reverse(&self, object: &HostObject) -> Result<Self> {
        let stat = object.stat()?;
        // One that cannot be read is not there.
        let before = |(name, _): &(Vec<u8>, _)| (name.clone(), object.xattr(name).ok());
        Ok(Self {
            owner: self.owner.map(|_| (stat.st_uid, stat.st_gid)),
            mode: self.mode.or(self.owner.map(|_| 0)).map(|_| mode_of(&stat)),
            times: self.times.map(|_| times_of(&stat)),
            xattrs: self.xattrs.iter().map(before).collect(),
        })
    }

    /// Sets the attributes of what has this name, which is `object`.
    pub(super) fn set(&self, object: &HostObject, dir: &OwnedFd, name: &[u8]) -> Result<()> {
        if let Some((uid, gid)) = self.owner {
            match object.set_owner(Uid::from_raw(uid), Gid::from_raw(gid)) {
                Ok(()) | Err(HostErrno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if stat_kind(&object.stat()?) != Some(ObjectKind::Symlink) {
            for (name, value) in &self.xattrs {
                match value {
                    Some(value) => object.set_xattr(name, value)?,
                    None if object.xattr(name).is_ok() => object.remove_xattr(name)?,
                    None => {}
                }
            }
            if let Some(mode) = self.mode {
                object.set_mode(Mode::from_raw_mode(mode as rustix::fs::RawMode))?;
            }
        }
        if let Some((accessed, modified)) = self.times {
            let times = Timestamps {
                last_access: timespec(accessed),
                last_modification: timespec(modified),
            };
            let (name, flags) = if name.is_empty() {
                (&b"."[..], AtFlags::empty())
            } else {
                (name, AtFlags::SYMLINK_NOFOLLOW)
            };
            rustix::fs::utimensat(dir, name, &times, flags)?;
        }
        Ok(())
    }

    /// Returns the part of this change that is still to be taken back from an object that has these
    /// attributes: its times stay if another program has changed the object since.
    pub(super) fn without_times_unless(&self, set: &Self, now: &Stat) -> Self {
        let is_as_set = set.times.map(|(_, modified)| modified) == Some(times_of(now).1);
        Self {
            times: self.times.filter(|_| is_as_set),
            ..self.clone()
        }
    }
}

fn times_of(stat: &Stat) -> (Nanos, Nanos) {
    (
        nanos(stat.st_atime, stat.st_atime_nsec),
        nanos(stat.st_mtime, stat.st_mtime_nsec),
    )
}

fn timespec(moment: Nanos) -> Timespec {
    Timespec {
        tv_sec: moment.div_euclid(1_000_000_000),
        tv_nsec: moment.rem_euclid(1_000_000_000),
    }
}
