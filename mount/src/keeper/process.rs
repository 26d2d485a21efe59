//! The process that keeps a mount while nobody serves it.
//!
//! It sees the end of the server by the end of their connection: a process closes it when the last of its
//! threads is gone, so none reads requests any more. But a thread of the server can be waiting inside
//! the kernel for a lock that a request in flight holds, and it goes on to hold the descriptors of the
//! process. So a signal comes as well, when the thread is gone that started the keeper. The keeper then
//! waits only a little for the others; the next server answers the request, which frees the lock.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGURG};
use signal_hook::low_level::pipe;

use crate::keeper::successor::Successor;
use crate::keeper::wire;
use crate::kept::Kept;

/// How long the threads of a dying server may take: they are killed, and have nothing left to do.
const DYING: Duration = Duration::from_secs(2);

/// Keeps a mount, until there is nothing to be kept any more or nobody came for it. This is the whole
/// of the program that [`KeeperOptions`](crate::KeeperOptions) name, and these are the last of its
/// arguments: the path of the socket, the patience in milliseconds, and the program and the arguments of
/// the server that is to be started when one is killed, if there is one. Standard input is a socket to the
/// server that started the keeper, and standard output the file that ends the connection of the mount, if
/// that is allowed.
///
/// # Errors
///
/// Those of the start: of the arguments, and of making the socket. The mount is not kept then.
pub fn keep(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let (Some(socket), Some(patience)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "usage: SOCKET PATIENCE [SERVER ARGUMENT...]",
        ));
    };
    let patience = patience.to_str().and_then(|text| text.parse().ok());
    let patience = Duration::from_millis(patience.ok_or(ErrorKind::InvalidInput)?);
    let server = UnixStream::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let signals = Signals::new()?;
    let kept = wire::receive(&server)?;
    let (listener, name) = listen(Path::new(&socket))?;
    // The mount can be taken over from now on.
    (&server).write_all(b"K")?;
    let keeper = Keeper {
        kept,
        listener,
        name,
        signals,
        patience,
        next_server: arguments.collect(),
    };
    keeper.run(server)
}

/// Signals, as bytes to be read.
#[derive(Debug)]
struct Signals {
    /// The thread that started the keeper is gone.
    parent_gone: UnixStream,
    /// The keeper is to end.
    end: UnixStream,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (parent_gone, urgent) = UnixStream::pair()?;
        let (end, terminate) = UnixStream::pair()?;
        pipe::register(SIGURG, urgent)?;
        pipe::register(SIGTERM, terminate)?;
        for ignored in [SIGHUP, SIGINT, SIGQUIT] {
            // Nobody reads it.
            pipe::register(ignored, File::options().write(true).open("/dev/null")?)?;
        }
        // A parent that is gone already has closed the connection, too.
        rustix::process::set_parent_process_death_signal(Some(Signal::URG))?;
        Ok(Self { parent_gone, end })
    }

    /// Takes the signal that the parent is gone, if it has come and was not noticed. Otherwise it would be
    /// taken for the end of the next server, which the keeper would then no longer listen to.
    fn forget_parent(&self) {
        let is_gone = ready(
            [(self.parent_gone.as_fd(), PollFlags::IN)],
            Some(Instant::now()),
        );
        if matches!(is_gone, Ok(Some(_)))
            && let Err(error) = (&self.parent_gone).read_exact(&mut [0])
        {
            tracing::debug!(%error, "the signal of a parent that is gone stays");
        }
    }
}

/// The socket, and the number by which it is found whether the name is still its.
#[derive(Debug)]
struct Name {
    directory: OwnedFd,
    name: OsString,
    inode: u64,
}

impl Name {
    /// Returns whether servers find this keeper by the name: another keeper of the mount may have it.
    fn is_own(&self) -> bool {
        let path = through(&self.directory, &self.name);
        fs::symlink_metadata(&path).is_ok_and(|it| inode(&it) == self.inode)
    }

    /// Takes the name away, unless another keeper has it by now.
    fn remove(&self) {
        if self.is_own()
            && let Err(error) = fs::remove_file(through(&self.directory, &self.name))
        {
            tracing::debug!(%error, "the socket of a keeper stays");
        }
    }
}

fn inode(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// Opens the directory of a socket: its path may be longer than an address.
pub(super) fn pin(socket: &Path) -> io::Result<(OwnedFd, OsString)> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    Ok((directory, name.to_owned()))
}

pub(super) fn through(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

/// Makes the socket, in the place of that of an earlier keeper.
fn listen(socket: &Path) -> io::Result<(UnixListener, Name)> {
    let (directory, name) = pin(socket)?;
    let mut new = OsString::from(format!(".{}-", std::process::id()));
    new.push(&name);
    let new = through(&directory, &new);
    let listener = UnixListener::bind(&new)?;
    listener.set_nonblocking(true)?;
    let inode = inode(&fs::symlink_metadata(&new)?);
    fs::rename(&new, through(&directory, &name))?;
    let name = Name {
        directory,
        name,
        inode,
    };
    Ok((listener, name))
}

/// What the keeper does next.
#[derive(Debug)]
enum Next {
    /// Waits for the end of this server.
    Served(UnixStream),
    /// Waits for a server.
    Unserved,
    /// Ends: there is nothing to be kept.
    Nothing,
    /// Cuts the mount off: nobody comes for it.
    Cut,
}

#[derive(Debug)]
struct Keeper {
    kept: Kept,
    listener: UnixListener,
    name: Name,
    signals: Signals,
    patience: Duration,
    /// The command of the next server; it may be empty.
    next_server: Vec<OsString>,
}

impl Keeper {
    fn run(mut self, server: UnixStream) -> io::Result<()> {
        let mut next = Next::Served(server);
        loop {
            next = match next {
                Next::Served(server) => self.while_served(&server)?,
                Next::Unserved => self.while_unserved()?,
                Next::Nothing => {
                    self.name.remove();
                    return Ok(());
                }
                // The mount has another keeper, which a server has started that was killed before it let
                // this one go. To end the connection is up to that one.
                Next::Cut if !self.name.is_own() => return Ok(()),
                Next::Cut => {
                    self.name.remove();
                    // Wakes all that wait, whoever else has the device open. Without the right to that,
                    // the end of this process does it, if nobody has.
                    return io::stdout().write_all(b"1\n");
                }
            };
        }
    }

    /// Waits until the server says that there is nothing to be kept, or is gone.
    fn while_served(&mut self, server: &UnixStream) -> io::Result<Next> {
        let mut dead_at = None;
        loop {
            let Some([said, gone, end]) = ready(
                [
                    (server.as_fd(), PollFlags::IN),
                    (self.signals.parent_gone.as_fd(), PollFlags::IN),
                    (self.signals.end.as_fd(), PollFlags::IN),
                ],
                dead_at,
            )?
            else {
                return Ok(Next::Unserved);
            };
            if said {
                let mut server = server;
                return Ok(match server.read(&mut [0]) {
                    Ok(1..) => Next::Nothing,
                    Ok(0) | Err(_) => Next::Unserved,
                });
            }
            if end {
                return Ok(Next::Cut);
            }
            if gone {
                // One signal comes, and one byte.
                self.signals.parent_gone.read_exact(&mut [0])?;
                dead_at = Some(Instant::now() + DYING);
            }
        }
    }

    /// Waits for a server, which is started if the command of one is known, and passes the mount on to it.
    fn while_unserved(&mut self) -> io::Result<Next> {
        let end_of_patience = Instant::now().checked_add(self.patience);
        let command = std::mem::take(&mut self.next_server);
        let directory = self.name.directory.try_clone()?;
        let mut successor = Successor::new(&command, &directory);
        let next = loop {
            successor.look();
            let deadline = [end_of_patience, successor.next_look()];
            let found = ready(
                [
                    (self.listener.as_fd(), PollFlags::IN),
                    // Only an error is waited for: the kernel has closed the connection. Nobody reads
                    // requests, so the keeper is not woken by each of them for long.
                    (self.kept.device.as_fd(), PollFlags::empty()),
                    (self.signals.end.as_fd(), PollFlags::IN),
                ],
                deadline.into_iter().flatten().min(),
            )?;
            let Some([came, ended, end]) = found else {
                if end_of_patience.is_some_and(|end| end <= Instant::now()) {
                    break Next::Cut;
                }
                continue;
            };
            if ended {
                break Next::Nothing;
            }
            if end {
                break Next::Cut;
            }
            if came && let Some(server) = self.pass_on() {
                break Next::Served(server);
            }
        };
        self.next_server = command;
        Ok(next)
    }

    /// Passes the mount on to a server of the same user.
    fn pass_on(&mut self) -> Option<UnixStream> {
        let (server, _) = self.listener.accept().ok()?;
        // The signal was about the server before, whose connection was closed as soon.
        self.signals.forget_parent();
        if !wire::is_own_user(&server) {
            return None;
        }
        let (device, saved) = (self.kept.device.as_fd(), &self.kept.saved);
        let sent = server
            .set_nonblocking(false)
            .and_then(|()| wire::send(&server, device, saved));
        // Even one that has got it only in part may have used its number.
        self.kept.saved = self.kept.saved.next();
        sent.ok()?;
        Some(server)
    }
}

/// Waits until one of these is ready; returns which are, or `None` at the deadline.
fn ready<const N: usize>(
    on: [(std::os::fd::BorrowedFd<'_>, PollFlags); N],
    deadline: Option<Instant>,
) -> io::Result<Option<[bool; N]>> {
    let mut polled = on.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let count = rustix::io::retry_on_intr(|| {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // No patience is so long that it does not fit.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        poll(&mut polled, left.as_ref())
    })?;
    Ok((count > 0).then(|| polled.map(|it| !it.revents().is_empty())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeper_knows_whether_another_one_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("0-1.mount");
        let (_first, before) = listen(&socket).unwrap();
        assert!(before.is_own());
        // A name for the second one that is not in use.
        let other = dir.path().join("0-2.mount");
        let (_second, after) = listen(&other).unwrap();
        fs::rename(&other, &socket).unwrap();
        assert!(!before.is_own());
        before.remove();
        assert!(socket.exists());
        assert!(!after.is_own());
    }

    #[test]
    fn signal_about_the_parent_is_not_taken_for_the_end_of_the_next_server() {
        let (parent_gone, mut urgent) = UnixStream::pair().unwrap();
        let (end, _terminate) = UnixStream::pair().unwrap();
        let signals = Signals { parent_gone, end };
        // There is none, and nothing waits for one.
        signals.forget_parent();
        urgent.write_all(b"U").unwrap();
        signals.forget_parent();
        let on = [(signals.parent_gone.as_fd(), PollFlags::IN)];
        assert_eq!(ready(on, Some(Instant::now())).unwrap(), None);
    }
}
