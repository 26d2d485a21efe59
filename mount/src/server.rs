//! The threads that answer the requests of one mount, and its end.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use agentfs_core::id::MountId;
use fuser::Session;
use parking_lot::{Condvar, Mutex};

use crate::adapter::Adapter;
use crate::error::UnmountError;
use crate::guardian::Guardian;
use crate::location::{Located, Location};

/// How long unmounting waits for the threads to end: they have nothing left to do.
const END: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Server {
    mount: Arc<Located>,
    end: Arc<End>,
}

/// Whether the kernel has closed the connection.
#[derive(Debug, Default)]
struct End {
    reached: Mutex<bool>,
    changed: Condvar,
}

impl End {
    fn reach(&self) {
        *self.reached.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self, at_most: Duration) -> bool {
        let mut reached = self.reached.lock();
        self.changed
            .wait_while_for(&mut reached, |reached| !*reached, at_most);
        *reached
    }
}

impl Server {
    /// Serves a session that is mounted at `location` until the kernel ends it, and then calls
    /// `at_end`.
    pub(crate) fn start(
        session: Session<Adapter>,
        id: MountId,
        location: Location,
        guarded: bool,
        at_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let mount = Arc::new(Located::new(location));
        let end = Arc::new(End::default());
        let (started, starts) = mpsc::channel();
        let (served, owned_end) = (Arc::clone(&mount), Arc::clone(&end));
        let thread = move || {
            let serving = std::thread::Builder::new()
                .name(format!("agentfs-serve-{id}"))
                .spawn(move || session.run());
            // This thread lives as long as the mount, which is what the guardian goes by.
            let guardian = match &serving {
                Ok(_) => guarded.then(|| Guardian::start(&served)).transpose(),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            let (guardian, result) = match guardian {
                Ok(guardian) => (guardian, Ok(())),
                Err(error) => (None, Err(error)),
            };
            // The caller of `start` waits for it.
            drop(started.send(result));
            match serving.map(std::thread::JoinHandle::join) {
                Ok(Ok(Ok(()))) | Err(_) => {}
                Ok(Ok(Err(error))) => tracing::info!(mount = %id, %error, "a mount ended"),
                Ok(Err(_)) => tracing::error!(mount = %id, "serving a mount failed"),
            }
            served.end();
            at_end();
            owned_end.reach();
            if let Some(guardian) = guardian {
                guardian.dismiss();
            }
        };
        let spawned = std::thread::Builder::new()
            .name(format!("agentfs-mount-{id}"))
            .spawn(thread);
        let aborted = |_| Err(ErrorKind::ConnectionAborted.into());
        // On failure nothing is mounted any more, as far as we can help it.
        spawned
            .and_then(|_| starts.recv().unwrap_or_else(aborted))
            .inspect_err(|_| mount.end())?;
        Ok(Self { mount, end })
    }

    pub(crate) fn point(&self) -> &Path {
        self.mount.location.point()
    }

    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        self.end.wait(at_most)
    }

    pub(crate) fn unmount(&self, detach: bool) -> Result<(), UnmountError> {
        if self.wait(Duration::ZERO) {
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
