//! Regions in shared memory: made by the producer, passed as a descriptor, opened by the consumer.
//!
//! Nothing has a name that outlives the call: on Linux and FreeBSD the memory is a sealed memfd
//! (`memfd_create(2)`, `fcntl(2)` `F_ADD_SEALS`), elsewhere, and with the feature `posix-shm`, a POSIX
//! shared-memory object whose name is removed before anybody could open it. A crash leaves nothing behind
//! and no other process can come by it.

use core::fmt;
use std::io;
use std::os::fd::OwnedFd;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{fstat, ftruncate};

use crate::consumer::Consumer;
use crate::layout::{CONSUMER_OFFSET, DATA_OFFSET, HeaderError, region_len};
use crate::position::{Capacity, CapacityError};
use crate::producer::Producer;
use crate::region::Region;

/// The system refused the memory for a ring.
#[derive(Debug)]
pub struct MapError {
    step: &'static str,
    source: io::Error,
}

impl MapError {
    pub(crate) fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self {
            step,
            source: source.into(),
        }
    }
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} for a ring: {}", self.step, self.source)
    }
}

impl core::error::Error for MapError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A descriptor does not hold a ring that this code can read.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The first bytes are those of something else.
    BadMagic([u8; 8]),
    /// The ring is of another version of the format.
    Version {
        /// The version that it is.
        found: u32,
    },
    /// The parts are not where this version has them.
    Geometry,
    /// The size of the record area is impossible.
    Capacity(CapacityError),
    /// The memory is shorter than the ring that it claims to hold.
    TooSmall {
        /// Bytes that are there.
        found: u64,
        /// Bytes that the ring needs.
        needed: u64,
    },
    /// The memory could be cut short under the reader, which SIGBUS would kill.
    NotSealed,
    /// The system would not map the memory.
    Map(MapError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic(found) => write!(f, "not a ring: it starts with {found:02x?}"),
            Self::Version { found } => write!(
                f,
                "the ring has version {found} and this program reads version {}: use a daemon and \
                 a shim of one release",
                crate::layout::VERSION
            ),
            Self::Geometry => f.write_str("the ring's header puts its parts at unknown places"),
            Self::Capacity(error) => write!(f, "the ring's header is wrong: {error}"),
            Self::TooSmall { found, needed } => {
                write!(
                    f,
                    "the ring needs {needed} bytes and its memory has {found}"
                )
            }
            Self::NotSealed => f.write_str("the ring's memory is not sealed against shrinking"),
            Self::Map(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Map(error) => Some(error),
            Self::Capacity(error) => Some(error),
            Self::BadMagic(_)
            | Self::Version { .. }
            | Self::Geometry
            | Self::TooSmall { .. }
            | Self::NotSealed => None,
        }
    }
}

impl From<HeaderError> for OpenError {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Magic(found) => Self::BadMagic(found),
            HeaderError::Version(found) => Self::Version { found },
            HeaderError::Geometry => Self::Geometry,
            HeaderError::Capacity(error) => Self::Capacity(error),
        }
    }
}

/// Makes a ring. The descriptor goes to the consumer's process, which opens it with
/// [`Consumer::open`]; here it can then be closed.
///
/// # Errors
/// [`MapError`] when the system refuses memory or descriptors.
///
/// # Examples
/// ```
/// use agentfs_ring::{Capacity, Consumer, create};
///
/// let (_producer, fd) = create(Capacity::DEFAULT)?;
/// let _consumer = Consumer::open(fd)?; // after SCM_RIGHTS or fork, in another process
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn create(capacity: Capacity) -> Result<(Producer, OwnedFd), MapError> {
    let len = region_len(capacity);
    let fd = anonymous(len as u64)?;
    let map = MmapOptions::new()
        .len(len)
        .map_raw(&fd)
        .map_err(MapError::at("map memory"))?;
    let region = Region::initialize(map, capacity);
    seal(&fd)?;
    Ok((Producer::new(region), fd))
}

/// Makes a ring in ordinary memory of this process: both ends at once.
///
/// # Errors
/// [`MapError`] when the system refuses memory.
///
/// # Examples
/// ```
/// use agentfs_ring::{Capacity, Reserve, heap};
///
/// let (mut producer, consumer) = heap(Capacity::MIN)?;
/// let reader = std::thread::spawn(move || format!("{consumer:?}"));
/// assert!(matches!(producer.reserve(8)?, Reserve::Slot(_)));
/// assert!(reader.join().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn heap(capacity: Capacity) -> Result<(Producer, Consumer), MapError> {
    let (producer, consumer) =
        Region::in_process(capacity).map_err(MapError::at("map anonymous memory"))?;
    Ok((Producer::new(producer), Consumer::new(consumer)))
}

impl Consumer {
    /// Maps a ring: everything read-only but for the consumer's own words.
    ///
    /// # Errors
    /// [`OpenError`] when the descriptor holds no ring, one of another version, or one that could
    /// shrink under the reader.
    ///
    /// # Examples
    /// ```
    /// use agentfs_ring::{Capacity, Consumer, create};
    ///
    /// let (_producer, fd) = create(Capacity::MIN)?;
    /// assert!(Consumer::open(fd).is_ok());
    ///
    /// let file = std::fs::File::open("/dev/null")?;
    /// assert!(Consumer::open(file.into()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(fd: OwnedFd) -> Result<Self, OpenError> {
        check_seals(&fd)?;
        let stat = fstat(&fd)
            .map_err(MapError::at("look at the memory"))
            .map_err(OpenError::Map)?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        let too_small = |needed: usize| {
            if found < needed as u64 {
                Err(OpenError::TooSmall {
                    found,
                    needed: needed as u64,
                })
            } else {
                Ok(())
            }
        };
        too_small(region_len(Capacity::MIN))?;
        let map_read_only = |len: usize| -> Result<MmapRaw, OpenError> {
            let map = MmapOptions::new().len(len).map_raw_read_only(&fd);
            map.map_err(MapError::at("map memory"))
                .map_err(OpenError::Map)
        };
        let front = map_read_only(DATA_OFFSET)?;
        let header = Region::peek_header(&front).ok_or(OpenError::Geometry)?;
        let capacity = header.validate()?;
        too_small(region_len(capacity))?;
        let all = map_read_only(region_len(capacity))?;
        let words = MmapOptions::new()
            .offset(CONSUMER_OFFSET as u64)
            .len(DATA_OFFSET - CONSUMER_OFFSET)
            .map_raw(&fd)
            .map_err(MapError::at("map the consumer's words"))
            .map_err(OpenError::Map)?;
        Ok(Self::new(Region::attach(all, words, capacity)))
    }
}

#[cfg(all(
    any(target_os = "linux", target_os = "freebsd"),
    not(feature = "posix-shm")
))]
pub(crate) fn anonymous(len: u64) -> Result<OwnedFd, MapError> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("agentfs-ring", flags).map_err(MapError::at("make a memfd"))?;
    ftruncate(&fd, len).map_err(MapError::at("size a memfd"))?;
    Ok(fd)
}

/// Sets `F_SEAL_SHRINK` and `F_SEAL_GROW`: nobody can make a mapping reach beyond the memory.
#[cfg(all(
    any(target_os = "linux", target_os = "freebsd"),
    not(feature = "posix-shm")
))]
pub(crate) fn seal(fd: &OwnedFd) -> Result<(), MapError> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(fd, seals).map_err(MapError::at("seal a memfd"))
}

#[cfg(all(
    any(target_os = "linux", target_os = "freebsd"),
    not(feature = "posix-shm")
))]
pub(crate) fn check_seals(fd: &OwnedFd) -> Result<(), OpenError> {
    use rustix::fs::{SealFlags, fcntl_get_seals};
    match fcntl_get_seals(fd) {
        Ok(seals) if seals.contains(SealFlags::SHRINK) => Ok(()),
        _ => Err(OpenError::NotSealed),
    }
}

#[cfg(any(
    not(any(target_os = "linux", target_os = "freebsd")),
    feature = "posix-shm"
))]
pub(crate) fn anonymous(len: u64) -> Result<OwnedFd, MapError> {
    shm_object(len)
}

/// Does nothing: POSIX shared memory has no seals; the object is out of everybody's reach but the two ends'.
#[cfg(any(
    not(any(target_os = "linux", target_os = "freebsd")),
    feature = "posix-shm"
))]
#[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux twin")]
pub(crate) fn seal(_fd: &OwnedFd) -> Result<(), MapError> {
    Ok(())
}

#[cfg(any(
    not(any(target_os = "linux", target_os = "freebsd")),
    feature = "posix-shm"
))]
#[expect(clippy::unnecessary_wraps, reason = "the signature of the Linux twin")]
pub(crate) fn check_seals(_fd: &OwnedFd) -> Result<(), OpenError> {
    Ok(())
}

/// Makes a POSIX shared-memory object without a name, on any Unix.
///
/// macOS (`xnu: bsd/kern/posix_shm.c`) allows names of 31 bytes and sizes an object once, so the
/// name is short and `ftruncate` is called once.
#[cfg(any(
    test,
    not(any(target_os = "linux", target_os = "freebsd")),
    feature = "posix-shm"
))]
fn shm_object(len: u64) -> Result<OwnedFd, MapError> {
    use core::sync::atomic::{AtomicU32, Ordering};
    use rustix::fs::Mode;
    use rustix::shm::{self, OFlags};

    // Relaxed: only that no two threads get the same number counts.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    let fd = loop {
        let name = shm_name(std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match shm::open(&name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => {
                shm::unlink(&name).map_err(MapError::at("remove the name of shared memory"))?;
                break fd;
            }
            // Left by a process of the same number that was killed between open and unlink.
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(MapError::at("make shared memory")(error)),
        }
    };
    ftruncate(&fd, len).map_err(MapError::at("size shared memory"))?;
    Ok(fd)
}

/// Returns a name of at most 31 bytes: `/agentfs.` and two 32-bit numbers in hexadecimal.
#[cfg(any(
    test,
    not(any(target_os = "linux", target_os = "freebsd")),
    feature = "posix-shm"
))]
fn shm_name(pid: u32, number: u32) -> String {
    format!("/agentfs.{pid:x}.{number:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shm_names_fit_macos() {
        assert!(shm_name(u32::MAX, u32::MAX).len() <= 31);
    }

    #[test]
    fn a_shared_memory_object_serves_as_a_ring_and_leaves_no_name() {
        let fd = shm_object(region_len(Capacity::MIN) as u64).expect("shared memory");
        let map = MmapOptions::new()
            .len(region_len(Capacity::MIN))
            .map_raw(&fd)
            .expect("mapped");
        let region = Region::initialize(map, Capacity::MIN);
        let header = {
            let map = MmapOptions::new()
                .len(DATA_OFFSET)
                .map_raw_read_only(&fd)
                .expect("mapped");
            Region::peek_header(&map).expect("long enough")
        };
        assert_eq!(header.validate(), Ok(Capacity::MIN));
        drop(region);
        let prefix = format!("agentfs.{:x}.", std::process::id());
        if let Ok(entries) = std::fs::read_dir("/dev/shm") {
            let left = entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
                .count();
            assert_eq!(left, 0, "names left in /dev/shm");
        }
    }
}
