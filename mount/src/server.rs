//! The threads that answer the requests of one mount, and their end.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use agentfs_core::id::MountId;
use fuser::{Session, SessionStopper};
use parking_lot::{Condvar, Mutex};

use crate::adapter::Adapter;
use crate::error::{LeaveError, UnmountError};
use crate::keeper::Guard;
use crate::kept::{Kept, SavedMount};
use crate::location::Located;
use crate::options::MountOptions;
use crate::session::Opened;

/// How long unmounting and leaving wait for the threads to end: they have at most one request to answer.
const END: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Server {
    mount: Arc<Located>,
    saved: SavedMount,
    stopper: SessionStopper,
    end: Arc<End>,
}

/// How a server ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The kernel has closed the connection.
    Unmounted,
    /// The mount is left to the next server.
    Left,
}

/// How a server has ended, if it has.
#[derive(Debug, Default)]
struct End {
    reached: Mutex<Option<Ending>>,
    changed: Condvar,
}

impl End {
    fn reach(&self, ending: Ending) {
        *self.reached.lock() = Some(ending);
        self.changed.notify_all();
    }

    fn wait(&self, at_most: Duration) -> Option<Ending> {
        let mut reached = self.reached.lock();
        self.changed
            .wait_while_for(&mut reached, |reached| reached.is_none(), at_most);
        *reached
    }
}

/// What the thread of a mount runs.
struct Serving<F> {
    mount: Arc<Located>,
    end: Arc<End>,
    session: Session<Adapter>,
    saved: SavedMount,
    options: MountOptions,
    before: Option<UnixStream>,
    at_end: F,
}

impl<F: FnOnce(Ending)> Serving<F> {
    /// Serves until the end. `started` is told when that has begun, or why not.
    fn run(self, id: MountId, started: &mpsc::Sender<io::Result<()>>) {
        let Self {
            mount,
            end,
            session,
            saved,
            options,
            before,
            at_end,
        } = self;
        let stopper = session.stopper();
        // This thread lives as long as the mount is served, which is what the guard goes by.
        let serving = Guard::start(&mount, &saved, &options, before)
            .and_then(|guard| Ok((spawn(id, session)?, guard)));
        let (serving, guard) = match serving {
            Ok(both) => both,
            Err(error) => return drop(started.send(Err(error))),
        };
        // The caller of `start` waits for it.
        drop(started.send(Ok(())));
        match serving.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(mount = %id, %error, "a mount ended"),
            Err(_) => tracing::error!(mount = %id, "serving a mount failed"),
        }
        let ending = if stopper.is_stopped() && !mount.live.has_ended() {
            Ending::Left
        } else {
            Ending::Unmounted
        };
        if ending == Ending::Unmounted {
            mount.end();
        }
        at_end(ending);
        mount.live.close();
        // A keeper passes the mount on when the connection to it is closed, so that comes last.
        match ending {
            Ending::Unmounted => {
                end.reach(ending);
                guard.dismiss();
            }
            Ending::Left => {
                guard.leave();
                end.reach(ending);
            }
        }
    }
}

fn spawn(id: MountId, session: Session<Adapter>) -> io::Result<JoinHandle<io::Result<()>>> {
    std::thread::Builder::new()
        .name(format!("agentfs-serve-{id}"))
        .spawn(move || session.run())
}

impl Server {
    /// Serves a mount until the kernel ends it or it is [left](Self::leave), and then calls `at_end`.
    pub(crate) fn start(
        opened: Opened,
        id: MountId,
        options: &MountOptions,
        at_end: impl FnOnce(Ending) + Send + 'static,
    ) -> io::Result<Self> {
        let Opened {
            session,
            location,
            fuse,
            saved,
            keeper: before,
        } = opened;
        let is_taken_over = saved.generation > 0;
        let mount = Arc::new(Located::new(location, fuse));
        let server = Self {
            mount: Arc::clone(&mount),
            saved: saved.clone(),
            stopper: session.stopper(),
            end: Arc::default(),
        };
        let serving = Serving {
            mount: Arc::clone(&mount),
            end: Arc::clone(&server.end),
            session,
            saved,
            options: options.clone(),
            before,
            at_end,
        };
        let (started, starts) = mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name(format!("agentfs-mount-{id}"))
            .spawn(move || serving.run(id, &started));
        let aborted = |_| Err(ErrorKind::ConnectionAborted.into());
        spawned
            .and_then(|_| starts.recv().unwrap_or_else(aborted))
            .inspect_err(|_| {
                if is_taken_over {
                    // Whoever kept it goes on.
                    mount.live.close();
                } else {
                    // Nothing is mounted any more, as far as we can help it.
                    mount.end();
                }
            })?;
        Ok(server)
    }

    pub(crate) fn point(&self) -> &Path {
        self.mount.location.point()
    }

    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        self.end.wait(at_most).is_some()
    }

    /// Returns a copy of the device, and what the next server has to know.
    pub(crate) fn kept(&self) -> io::Result<Kept> {
        Ok(Kept::new(self.mount.live.copy()?, self.saved.next()))
    }

    /// Stops answering, without an end of the mount: what programs ask for from now on waits for the
    /// next server. The threads that wait for a request end with this process, or leave the next request
    /// that they get and end: nothing but a request wakes them.
    pub(crate) fn leave(&self) -> Result<Kept, LeaveError> {
        let point = || self.point().to_owned();
        if !self.saved.negotiated.can_resend() {
            return Err(LeaveError::NoResend(point()));
        }
        let kept = self.kept().map_err(|_| LeaveError::NotMounted(point()))?;
        if !self.stopper.stop(END) {
            return Err(LeaveError::Busy(point()));
        }
        if self.end.wait(Duration::ZERO) == Some(Ending::Unmounted) {
            return Err(LeaveError::NotMounted(point()));
        }
        Ok(kept)
    }

    pub(crate) fn unmount(&self, detach: bool) -> Result<(), UnmountError> {
        if self.wait(Duration::ZERO) || self.stopper.is_stopped() {
            return Err(UnmountError::NotMounted(self.point().to_owned()));
        }
        if self.mount.is_covered() {
            return Err(UnmountError::Covered(self.point().to_owned()));
        }
        self.mount.unmount(detach).map_err(|error| {
            let point = self.point().to_owned();
            if error.kind() == ErrorKind::ResourceBusy {
                UnmountError::Busy(point)
            } else if error.kind() == ErrorKind::InvalidInput {
                UnmountError::NotMounted(point)
            } else {
                UnmountError::Refused(point, error)
            }
        })?;
        if !detach && !self.wait(END) {
            tracing::warn!(point = %self.point().display(), "the threads of a mount go on");
        }
        Ok(())
    }
}
