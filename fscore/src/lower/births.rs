//! When the host's objects were made. A filesystem gives the number of an object that is gone to the
//! next one that is made, which is another node if it has another name.

use rustc_hash::FxHashMap;
use rustix::fd::OwnedFd;

use super::Lower;
use super::index::HostId;
use crate::model::attr::Nanos;
use crate::model::id::NodeId;
use crate::sync::Mutex;

/// The times at which objects were made, where the host's filesystem records them. A node gets
/// another object when a branch is applied, so each time is that of an object.
#[derive(Debug, Default)]
pub(super) struct Births(Mutex<FxHashMap<NodeId, (HostId, Nanos)>>);

impl Births {
    fn get(&self, node: NodeId, of: HostId) -> Option<Nanos> {
        let (object, birth) = *self.0.lock().get(&node)?;
        (object == of).then_some(birth)
    }

    pub(super) fn set(&self, node: NodeId, object: HostId, birth: Nanos) {
        self.0.lock().insert(node, (object, birth));
    }
}

impl Lower {
    /// Tells an object that was found at this path from one that had its number before and another
    /// path. Returns when the object was made, if that is to be recorded for its node.
    pub(super) fn tell_apart(
        &self,
        (dir, name): (&OwnedFd, &[u8]),
        path: &[u8],
        object: HostId,
    ) -> Option<Nanos> {
        let before = self.index.lock().at(object);
        match before {
            Some((node, old)) if *old == *path && self.births.get(node, object).is_some() => None,
            Some((node, old)) if *old != *path => {
                let birth = born((dir, name), object);
                let known = self.births.get(node, object);
                // It may also be another name of the object, or the host has moved it.
                if known.is_some() && birth.is_some() && known != birth {
                    self.index.lock().forget_object(object);
                }
                birth
            }
            Some(_) | None => born((dir, name), object),
        }
    }
}

/// Returns when the object with this name was made, if the name still leads to it.
#[cfg(target_os = "linux")]
fn born((dir, name): (&OwnedFd, &[u8]), object: HostId) -> Option<Nanos> {
    use rustix::fs::{AtFlags, StatxFlags, makedev};
    let mask = StatxFlags::BTIME | StatxFlags::INO;
    let found = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, mask).ok()?;
    let device = makedev(found.stx_dev_major, found.stx_dev_minor);
    let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let birth = super::stat::nanos(found.stx_btime.tv_sec, found.stx_btime.tv_nsec);
    (has_birth && (device, found.stx_ino) == object).then_some(birth)
}

/// Returns `None`: on other systems the number of an object that is gone is not given again soon.
#[cfg(not(target_os = "linux"))]
fn born(_: (&OwnedFd, &[u8]), _: HostId) -> Option<Nanos> {
    None
}
