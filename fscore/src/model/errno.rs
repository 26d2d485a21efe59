//! The error of every operation, as Linux numbers it.

use std::fmt;

/// An error number with Linux's values, on every platform: it is what a mount answers and what a
/// test against the kernel compares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Errno(i32);

/// What every operation returns.
pub type Result<T, E = Errno> = std::result::Result<T, E>;

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// Returns the symbol, such as `ENOENT`, or `E?` for a number that this crate never
            /// returns.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)*
                    _ => "E?",
                }
            }

            fn text(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "unknown error",
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "value too large";
    EBADF = 9, "bad handle";
    EAGAIN = 11, "would block";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists";
    EXDEV = 18, "not on one filesystem";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open handles";
    EMFILE = 24, "too many open handles";
    EFBIG = 27, "file too large";
    ENOSPC = 28, "no space left: a limit of the filesystem is reached";
    ESPIPE = 29, "not seekable";
    EROFS = 30, "read-only filesystem";
    EMLINK = 31, "too many links";
    ERANGE = 34, "out of range";
    EDEADLK = 35, "deadlock";
    ENAMETOOLONG = 36, "name too long";
    ENOSYS = 38, "not implemented";
    ENOTEMPTY = 39, "directory not empty";
    ELOOP = 40, "too many symbolic links";
    ENODATA = 61, "no such attribute";
    EOVERFLOW = 75, "value too large for its type";
    EOPNOTSUPP = 95, "not supported";
    ESTALE = 116, "the object is gone, or changed below the branch";
    EDQUOT = 122, "quota exceeded";
}

impl Errno {
    /// Returns the number, as `errno` holds it.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Returns the error with a raw Linux number.
    #[must_use]
    pub const fn from_raw(number: i32) -> Self {
        Self(number)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.name())
    }
}

impl std::error::Error for Errno {}

/// Whether the operating system's numbers are those of [`Errno`].
const ARE_NUMBERS_OF_THE_HOST: bool = cfg!(target_os = "linux");

impl From<Errno> for std::io::Error {
    /// Returns, on Linux, the operating system's error of that number, so that `kind()` is known.
    fn from(errno: Errno) -> Self {
        if ARE_NUMBERS_OF_THE_HOST {
            Self::from_raw_os_error(errno.0)
        } else {
            Self::other(errno)
        }
    }
}

/// Translates an error of the host to the number that it has on Linux; one that has none there is
/// `EIO`.
impl From<rustix::io::Errno> for Errno {
    fn from(host: rustix::io::Errno) -> Self {
        use rustix::io::Errno as Host;
        const SAME: &[(Host, Errno)] = &[
            (Host::PERM, Errno::EPERM),
            (Host::NOENT, Errno::ENOENT),
            (Host::INTR, Errno::EINTR),
            (Host::ACCESS, Errno::EACCES),
            (Host::EXIST, Errno::EEXIST),
            (Host::XDEV, Errno::EXDEV),
            (Host::NOTDIR, Errno::ENOTDIR),
            (Host::ISDIR, Errno::EISDIR),
            (Host::INVAL, Errno::EINVAL),
            (Host::MFILE, Errno::EMFILE),
            (Host::NFILE, Errno::ENFILE),
            (Host::NOSPC, Errno::ENOSPC),
            (Host::ROFS, Errno::EROFS),
            (Host::NAMETOOLONG, Errno::ENAMETOOLONG),
            (Host::NOTEMPTY, Errno::ENOTEMPTY),
            (Host::LOOP, Errno::ELOOP),
            (Host::STALE, Errno::ESTALE),
            (Host::DQUOT, Errno::EDQUOT),
            (Host::OPNOTSUPP, Errno::EOPNOTSUPP),
            (Host::RANGE, Errno::ERANGE),
            (Host::TOOBIG, Errno::E2BIG),
        ];
        SAME.iter()
            .find(|(from, _)| *from == host)
            .map_or(Self::EIO, |(_, to)| *to)
    }
}
