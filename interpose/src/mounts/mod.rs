//! Whether an object lies on a mount of the daemon.
//!
//! Almost every watch of almost every program does not. Then it costs one statx, for a disk's
//! filesystem a look at its device number, and for others a look into a small table.

#![cfg_attr(
    target_os = "linux",
    expect(
        unsafe_code,
        reason = "looks at a path that the kernel has not checked yet"
    )
)]

#[cfg(target_os = "linux")]
use std::ffi::{CStr, c_char};
#[cfg(target_os = "linux")]
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(target_os = "linux")]
use rustix::fs::{AtFlags, StatxFlags, makedev, statx};

use crate::config::config;
use crate::connection;
use crate::platform::seconds;

/// What a path led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Object {
    pub(crate) st_dev: u64,
    pub(crate) st_ino: u64,
    /// The mount, by a number that is not used twice (Linux 6.8), or not at the same time.
    mount: u64,
}

#[cfg(target_os = "linux")]
const FUSE_SUPER_MAGIC: u32 = 0x6573_5546;

/// linux/stat.h, since 6.8
#[cfg(target_os = "linux")]
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// Looks a path up as `inotify_add_watch` does.
///
/// # Safety
/// As statx(2): the path may be any pointer.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn object(path: *const c_char, follow: bool) -> Option<Object> {
    let no_follow = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    let flags = no_follow | libc::AT_STATX_DONT_SYNC;
    let wanted = libc::STATX_INO | libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: `found` is writable; the kernel checks the path.
    let failed =
        unsafe { libc::statx(libc::AT_FDCWD, path, flags, wanted, found.as_mut_ptr()) } != 0;
    // SAFETY: numbers, which may all be 0.
    let found = unsafe { found.assume_init() };
    (!failed).then(|| Object {
        st_dev: makedev(found.stx_dev_major, found.stx_dev_minor),
        st_ino: found.stx_ino,
        mount: found.stx_mnt_id,
    })
}

#[cfg(target_os = "linux")]
fn object_at(from: BorrowedFd<'_>, path: &CStr, flags: AtFlags) -> Option<Object> {
    let flags = flags | AtFlags::STATX_DONT_SYNC;
    let wanted =
        StatxFlags::INO | StatxFlags::MNT_ID | StatxFlags::from_bits_retain(STATX_MNT_ID_UNIQUE);
    let found = statx(from, path, flags, wanted).ok()?;
    Some(Object {
        st_dev: makedev(found.stx_dev_major, found.stx_dev_minor),
        st_ino: found.stx_ino,
        mount: found.stx_mnt_id,
    })
}

/// Whether the daemon serves the mount of the object.
#[cfg(target_os = "linux")]
pub(crate) fn is_agentfs(object: Object, path: &CStr) -> bool {
    is_served(object, || {
        rustix::fs::statfs(path).is_ok_and(|it| is_fuse(&it))
    })
}

/// Whether an open file lies on a mount that the daemon serves.
#[cfg(target_os = "linux")]
pub(crate) fn is_file_on_agentfs(file: BorrowedFd<'_>) -> bool {
    let Some(object) = object_at(file, c"", AtFlags::EMPTY_PATH) else {
        return false;
    };
    is_served(object, || {
        rustix::fs::fstatfs(file).is_ok_and(|it| is_fuse(&it))
    })
}

/// Whether an open file lies on a mount that the daemon serves. Any filesystem may be one: what
/// AgentFS is mounted by on macOS has no one name.
#[cfg(not(target_os = "linux"))]
pub(crate) fn is_file_on_agentfs(file: BorrowedFd<'_>) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return false;
    };
    // dev_t is signed on macOS.
    let object = Object {
        st_dev: stat.st_dev as u64,
        st_ino: stat.st_ino,
        mount: 0,
    };
    is_served(object, || true)
}

/// A disk's filesystem has a major device number and is none of the daemon's.
#[cfg(target_os = "linux")]
fn may_be_served(object: Object) -> bool {
    rustix::fs::major(object.st_dev) == 0 || config().any_filesystem()
}

#[cfg(not(target_os = "linux"))]
fn may_be_served(_object: Object) -> bool {
    true
}

fn is_served(object: Object, is_fuse: impl FnOnce() -> bool) -> bool {
    if !may_be_served(object) {
        return false;
    }
    let slot = Slot::of(object);
    if let Some(known) = slot.known() {
        return known;
    }
    let is_candidate = config().any_filesystem() || is_fuse();
    if !is_candidate {
        slot.learn(false, Until::End);
        return false;
    }
    match connection::mounts() {
        // No daemon may be one that starts later.
        None => false,
        Some(mounts) => {
            let is_ours = mounts.contains(&object.st_dev);
            slot.learn(is_ours, if is_ours { Until::End } else { Until::Soon });
            is_ours
        }
    }
}

#[cfg(target_os = "linux")]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a 32-bit number, whatever its type"
)]
fn is_fuse(statfs: &rustix::fs::StatFs) -> bool {
    statfs.f_type as u32 == FUSE_SUPER_MAGIC
}

/// How long an answer holds. A mount that the daemon does not know yet may be in its table in a
/// moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    End,
    Soon,
}

const SLOTS: usize = 16;

/// Mount and answer in one word (63 bits of a hash are as good as the mount), and until when.
static KNOWN: [(AtomicU64, AtomicU64); SLOTS] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; SLOTS];

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: u64,
    words: Option<&'static (AtomicU64, AtomicU64)>,
}

impl Slot {
    fn of(object: Object) -> Self {
        let mixed = (object.mount ^ object.st_dev.rotate_left(32))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            | 1 << 63;
        let index = usize::try_from(mixed >> 56).unwrap_or(0) % SLOTS;
        Self {
            key: mixed & !1,
            words: KNOWN.get(index),
        }
    }

    fn known(self) -> Option<bool> {
        let (word, until) = self.words?;
        // Acquire: pairs with the last store in `learn`; the end belongs to this answer.
        let word = word.load(Ordering::Acquire);
        let is_fresh = word & !1 == self.key && seconds() < until.load(Ordering::Relaxed);
        is_fresh.then_some(word & 1 == 1)
    }

    fn learn(self, is_ours: bool, until: Until) {
        let Some((word, end)) = self.words else {
            return;
        };
        let until = match until {
            Until::End => u64::MAX,
            Until::Soon => seconds() + 2,
        };
        // Nobody takes the old answer for the new mount meanwhile.
        word.store(0, Ordering::Release);
        end.store(until, Ordering::Relaxed);
        word.store(self.key | u64::from(is_ours), Ordering::Release);
    }
}
