//! Doorbells: descriptors that wake a sleeping peer. The system calls; whether to ring is decided
//! by the ring ([`Bell`](crate::Bell)).
//!
//! A doorbell is level-triggered: once rung it stays readable until it is cleared, and ringing it
//! again adds nothing. Clear it before popping, never after, or a ring in between is lost.
//!
//! ```
//! use std::time::Duration;
//!
//! use agentfs_ring::doorbell::{Woken, pipe};
//!
//! let (ringer, waiter) = pipe()?;
//! assert_eq!(waiter.wait(None, Some(Duration::ZERO))?, Woken::TimedOut);
//! ringer.ring()?;
//! assert_eq!(waiter.wait(None, None)?, Woken::Rung);
//! assert!(waiter.clear()?); // then pop
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::fmt;
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How a doorbell is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BellKind {
    /// `eventfd(2)`, Linux: one descriptor for both ends.
    EventFd,
    /// `pipe(2)`, everywhere: can be watched by a kqueue. The ringing process must ignore or block
    /// SIGPIPE.
    Pipe,
}

/// The end that rings.
#[derive(Debug)]
pub struct Ringer {
    fd: OwnedFd,
    kind: BellKind,
}

/// The end that is woken.
#[derive(Debug)]
pub struct Waiter {
    fd: OwnedFd,
    kind: BellKind,
}

/// A doorbell could not be rung.
#[derive(Debug)]
#[non_exhaustive]
pub enum RingError {
    /// Nobody holds the other end any more.
    PeerGone,
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerGone => f.write_str("the doorbell's other end is closed"),
            Self::Io(error) => write!(f, "the doorbell cannot be rung: {error}"),
        }
    }
}

impl core::error::Error for RingError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::PeerGone => None,
            Self::Io(error) => Some(error),
        }
    }
}

/// Makes a doorbell out of an eventfd.
///
/// # Errors
/// When the system refuses a descriptor.
///
/// # Examples
/// ```
/// let (ringer, waiter) = agentfs_ring::doorbell::eventfd()?;
/// ringer.ring()?;
/// assert!(waiter.clear()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[cfg(target_os = "linux")]
pub fn eventfd() -> io::Result<(Ringer, Waiter)> {
    use rustix::event::{EventfdFlags, eventfd};
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let kind = BellKind::EventFd;
    Ok((
        Ringer {
            fd: fd.try_clone()?,
            kind,
        },
        Waiter { fd, kind },
    ))
}

/// Makes a doorbell out of a pipe.
///
/// # Errors
/// When the system refuses a descriptor.
///
/// # Examples
/// ```
/// use agentfs_ring::doorbell::{RingError, pipe};
///
/// let (ringer, waiter) = pipe()?;
/// ringer.ring()?;
/// drop(waiter);
/// assert!(matches!(ringer.ring(), Err(RingError::PeerGone)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pipe() -> io::Result<(Ringer, Waiter)> {
    let (read, write) = quiet_pipe()?;
    let kind = BellKind::Pipe;
    Ok((Ringer { fd: write, kind }, Waiter { fd: read, kind }))
}

/// Makes a pipe that neither blocks nor is inherited.
#[cfg(not(target_vendor = "apple"))]
fn quiet_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pipe::{PipeFlags, pipe_with};
    Ok(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
}

/// Makes a pipe that neither blocks nor is inherited, where `pipe2` does not exist: a child forked by
/// another thread between these calls inherits the pipe.
#[cfg(target_vendor = "apple")]
fn quiet_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{OFlags, fcntl_setfl};
    use rustix::io::{FdFlags, fcntl_setfd};
    let (read, write) = rustix::pipe::pipe()?;
    for end in [&read, &write] {
        fcntl_setfd(end, FdFlags::CLOEXEC)?;
        fcntl_setfl(end, OFlags::NONBLOCK)?;
    }
    Ok((read, write))
}

impl Ringer {
    /// Returns the ringing end that a peer sent. The descriptor must be in non-blocking mode: what
    /// cannot be rung at once was rung already.
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::OwnedFd;
    ///
    /// use agentfs_ring::doorbell::{BellKind, Ringer, pipe};
    ///
    /// let (ringer, waiter) = pipe()?;
    /// let sent = OwnedFd::from(ringer); // by SCM_RIGHTS, say
    /// Ringer::from_fd(sent, BellKind::Pipe).ring()?;
    /// assert!(waiter.clear()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn from_fd(fd: OwnedFd, kind: BellKind) -> Self {
        Self { fd, kind }
    }

    /// Wakes whoever waits. Never blocks on a descriptor in non-blocking mode.
    ///
    /// # Errors
    /// [`RingError::PeerGone`] when the other end of a pipe is closed (an eventfd does not report that;
    /// see [`peer_is_gone`]), [`RingError::Io`] when the system refuses otherwise.
    ///
    /// # Examples
    /// ```
    /// # let (ringer, waiter) = agentfs_ring::doorbell::pipe()?;
    /// for _ in 0..100_000 {
    ///     ringer.ring()?; // does not wait, although nobody clears
    /// }
    /// assert!(waiter.clear()?);
    /// assert!(!waiter.clear()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ring(&self) -> Result<(), RingError> {
        let one = 1_u64.to_ne_bytes();
        let bytes = match self.kind {
            BellKind::EventFd => &one[..],
            BellKind::Pipe => &one[..1],
        };
        loop {
            return match rustix::io::write(&self.fd, bytes) {
                // Full: as many rings as fit are waiting to be heard.
                Ok(_) | Err(Errno::AGAIN) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::PIPE) => Err(RingError::PeerGone),
                Err(error) => Err(RingError::Io(error.into())),
            };
        }
    }
}

impl AsFd for Ringer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Ringer> for OwnedFd {
    fn from(ringer: Ringer) -> Self {
        ringer.fd
    }
}

/// How many bytes of a pipe are read at a time, and how often: once what a pipe holds (`pipe(7)`).
const PART: usize = 2048;
const PARTS: usize = 1 + (64 << 10) / PART;

impl Waiter {
    /// Returns the waiting end that a peer sent. The descriptor must be in non-blocking mode.
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::OwnedFd;
    ///
    /// use agentfs_ring::doorbell::{BellKind, Waiter, pipe};
    ///
    /// let (ringer, waiter) = pipe()?;
    /// let sent = OwnedFd::from(waiter);
    /// ringer.ring()?;
    /// assert!(Waiter::from_fd(sent, BellKind::Pipe).clear()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn from_fd(fd: OwnedFd, kind: BellKind) -> Self {
        Self { fd, kind }
    }

    /// Makes the doorbell silent until it is rung again. Returns whether it had been rung. A peer that rings
    /// without end holds nobody here: the doorbell is left readable then, and the next wait returns at once.
    ///
    /// # Errors
    /// When the system refuses.
    ///
    /// # Examples
    /// Clear the doorbell, then pop:
    /// ```
    /// # use agentfs_ring::{Capacity, OwnerId, heap};
    /// # let (_ringer, waiter) = agentfs_ring::doorbell::pipe()?;
    /// # let (_producer, consumer) = heap(Capacity::MIN)?;
    /// waiter.clear()?;
    /// let mut claim = consumer.claim(OwnerId::this_process(), |_| true).expect("unclaimed");
    /// while let Some(record) = claim.next()? {
    ///     println!("{} bytes", record.len());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn clear(&self) -> io::Result<bool> {
        let mut rung = false;
        let mut bytes = [0_u8; PART];
        let room = if self.kind == BellKind::EventFd {
            8
        } else {
            bytes.len()
        };
        for _ in 0..PARTS {
            match rustix::io::read(&self.fd, &mut bytes[..room]) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(rung),
                // One read empties an eventfd, and a pipe that had less than asked for.
                Ok(n) if self.kind == BellKind::EventFd || n < room => return Ok(true),
                Ok(_) => rung = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(rung)
    }

    /// Sleeps until the doorbell is rung, the peer is gone, or the time is over.
    ///
    /// `lifeline` is a descriptor whose other end only the peer holds: the control socket, or one
    /// end of a socket pair. `None` waits for ever.
    ///
    /// # Errors
    /// When the system refuses. A signal is not an error: the wait goes on.
    ///
    /// # Examples
    /// ```
    /// use std::os::fd::AsFd as _;
    /// use std::os::unix::net::UnixStream;
    ///
    /// use agentfs_ring::doorbell::{Woken, pipe};
    ///
    /// let (ours, theirs) = UnixStream::pair()?;
    /// let (_ringer, waiter) = pipe()?;
    /// drop(theirs); // the peer ends
    /// assert_eq!(waiter.wait(Some(ours.as_fd()), None)?, Woken::PeerGone);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait(
        &self,
        lifeline: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<Woken> {
        let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
            let spec = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [
                PollFd::new(&self.fd, PollFlags::IN),
                PollFd::from_borrowed_fd(lifeline.unwrap_or(self.fd.as_fd()), HANGUP),
            ];
            let watched = if lifeline.is_some() {
                &mut fds[..]
            } else {
                &mut fds[..1]
            };
            match poll(watched, spec.as_ref()) {
                Ok(0) => return Ok(Woken::TimedOut),
                Ok(_) if fds[0].revents().contains(PollFlags::IN) => return Ok(Woken::Rung),
                Ok(_) => return Ok(Woken::PeerGone),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Waiter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Waiter> for OwnedFd {
    fn from(waiter: Waiter) -> Self {
        waiter.fd
    }
}

/// Why [`Waiter::wait`] returned. A ring goes before a peer's end, so that what was published is
/// read first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// The doorbell was rung. Clear it, then pop.
    Rung,
    /// The peer closed its descriptors. Pop what is left; nothing will follow.
    PeerGone,
    /// The time was over.
    TimedOut,
}

/// What `poll(2)` reports for a socket whose other end is closed. Linux reports a half-closed stream
/// by RDHUP only.
#[cfg(target_os = "linux")]
const HANGUP: PollFlags = PollFlags::HUP.union(PollFlags::RDHUP);
#[cfg(not(target_os = "linux"))]
const HANGUP: PollFlags = PollFlags::HUP;

/// Returns whether the other end of a pipe or socket is closed. Never blocks.
///
/// # Errors
/// When the system refuses.
///
/// # Staleness
/// "Gone" stays true; "there" may be wrong by the time it is returned.
///
/// # Examples
/// A peer that is gone does not come back. What it published before its end is read after this look:
/// ```
/// # use std::os::{fd::AsFd as _, unix::net::UnixStream};
/// # use agentfs_ring::doorbell::peer_is_gone;
/// # let (ours, theirs) = UnixStream::pair()?;
/// # drop(theirs);
/// if peer_is_gone(ours.as_fd())? {
///     // Pop what is left, and end.
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
/// A peer that is there may be gone at once. Whatever is sent to it can fail all the same:
/// ```
/// # use std::os::{fd::AsFd as _, unix::net::UnixStream};
/// # use std::io::Write as _;
/// # use agentfs_ring::doorbell::peer_is_gone;
/// # let (mut ours, theirs) = UnixStream::pair()?;
/// assert!(!peer_is_gone(ours.as_fd())?);
/// drop(theirs);
/// assert!(ours.write_all(b"hello").is_err()); // wrong would be an `expect` here
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn peer_is_gone(lifeline: BorrowedFd<'_>) -> io::Result<bool> {
    let gone = HANGUP.union(PollFlags::ERR);
    let mut fds = [PollFd::from_borrowed_fd(lifeline, HANGUP)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&now)))?;
    Ok(fds[0].revents().intersects(gone))
}
