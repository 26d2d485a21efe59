//! A queue with typed calls, closed at the end of a test.

use std::io::Write as _;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use agentfs_testkq::abi::{self, Kevent};
use agentfs_testkq::{close, kevent, kqueue, testkq_post_vnode};

pub(crate) const NOTHING: Option<Duration> = Some(Duration::ZERO);

/// Returns the result of a thread that has to wake. When the thread does not wake, the test program
/// ends: a panic would wait for it.
pub(crate) fn woken<T>(sleeper: std::thread::ScopedJoinHandle<'_, T>) -> T {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while !sleeper.is_finished() {
        if std::time::Instant::now() > until {
            let test = std::thread::current();
            drop(writeln!(
                std::io::stderr(),
                "{:?}: a sleeper was not woken",
                test.name()
            ));
            std::process::abort();
        }
        std::thread::yield_now();
    }
    sleeper.join().unwrap()
}

#[derive(Debug)]
pub(crate) struct Kq(pub(crate) RawFd);

impl Kq {
    pub(crate) fn new() -> Self {
        let fd = kqueue();
        assert!(fd >= 0);
        Self(fd)
    }

    /// Makes one call; `Err` is errno.
    pub(crate) fn call(
        &self,
        changes: &[Kevent],
        room: usize,
        timeout: Option<Duration>,
    ) -> Result<Vec<Kevent>, i32> {
        let mut events = vec![Kevent::default(); room];
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap(),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        #[expect(unsafe_code, reason = "the call under test takes pointers")]
        // SAFETY: the lengths are those of the slices, the timeout lives until after the call.
        let count = unsafe {
            kevent(
                self.0,
                changes.as_ptr(),
                changes.len().try_into().unwrap(),
                events.as_mut_ptr(),
                room.try_into().unwrap(),
                timeout
                    .as_ref()
                    .map_or(std::ptr::null(), std::ptr::from_ref),
            )
        };
        match usize::try_from(count) {
            Ok(count) => {
                events.truncate(count);
                Ok(events)
            }
            Err(_) => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
        }
    }

    pub(crate) fn change(&self, change: Kevent) -> Result<(), i32> {
        self.call(&[change], 0, NOTHING).map(drop)
    }

    /// Returns what is ready now.
    pub(crate) fn ready(&self) -> Vec<Kevent> {
        self.call(&[], 64, NOTHING).unwrap()
    }

    /// Returns `(ident, flags, fflags)` of what is ready now.
    pub(crate) fn brief(&self) -> Vec<(usize, u16, u32)> {
        self.ready()
            .iter()
            .map(|e| (e.ident, e.flags, e.fflags))
            .collect()
    }

    pub(crate) fn is_readable(&self) -> bool {
        let mut fd = libc::pollfd {
            fd: self.0,
            events: libc::POLLIN,
            revents: 0,
        };
        #[expect(unsafe_code, reason = "poll(2) on the raw descriptor")]
        // SAFETY: one live pollfd.
        let count = unsafe { libc::poll(&raw mut fd, 1, 0) };
        count == 1
    }
}

impl Drop for Kq {
    fn drop(&mut self) {
        close(self.0);
    }
}

pub(crate) fn number(fd: &impl AsRawFd) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap()
}

/// Returns a change of an EVFILT_VNODE knote.
pub(crate) fn vnode(file: &impl AsRawFd, flags: u16, fflags: u32) -> Kevent {
    Kevent {
        ident: number(file),
        filter: abi::EVFILT_VNODE,
        flags,
        fflags,
        ..Kevent::default()
    }
}

/// Returns a change of an EVFILT_USER knote.
pub(crate) fn user(ident: usize, flags: u16, fflags: u32) -> Kevent {
    Kevent {
        ident,
        filter: abi::EVFILT_USER,
        flags,
        fflags,
        ..Kevent::default()
    }
}

pub(crate) fn post(file: &impl AsRawFd, hint: u32) {
    assert_eq!(testkq_post_vnode(file.as_raw_fd(), hint), 0);
}
