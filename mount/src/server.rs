//! The threads that answer the requests of one mount, and its end.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use agentfs_core::id::MountId;
use fuser::Session;

use crate::adapter::Adapter;
use crate::error::UnmountError;
use crate::guardian::Guardian;
use crate::location::{Located, Location};
use crate::session;

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
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self, at_most: Duration) -> bool {
        let reached = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(reached, at_most, |reached| !*reached);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Server {
    /// Serves a session that is mounted at `location` until the kernel ends it, and calls `at_end` then.
    pub(crate) fn start(
        session: Session<Adapter>,
        id: MountId,
        location: Location,
        guarded: bool,
        at_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let end = Arc::new(End::default());
        let (started, starts) = mpsc::channel();
        let owned_end = Arc::clone(&end);
        let thread = move || {
            let serving = std::thread::Builder::new()
                .name(format!("agentfs-serve-{id}"))
                .spawn(move || session.run());
            // This thread lives as long as the mount, which is what the guardian goes by.
            let (guardian, found) = match serving.as_ref().map(|_| guarded_mount(location, guarded))
            {
                Ok(Ok((mount, guardian))) => (guardian, Ok(mount)),
                Ok(Err(error)) => (None, Err(error)),
                Err(error) => (None, Err(io::Error::new(error.kind(), error.to_string()))),
            };
            // Whoever started this waits for it.
            drop(started.send(found));
            match serving.map(std::thread::JoinHandle::join) {
                Ok(Ok(Ok(()))) | Err(_) => {}
                Ok(Ok(Err(error))) => tracing::info!(mount = %id, %error, "a mount ended"),
                Ok(Err(_)) => tracing::error!(mount = %id, "serving a mount failed"),
            }
            at_end();
            owned_end.reach();
            if let Some(guardian) = guardian {
                guardian.dismiss();
            }
        };
        std::thread::Builder::new()
            .name(format!("agentfs-mount-{id}"))
            .spawn(thread)?;
        let mount = starts
            .recv()
            .unwrap_or_else(|_| Err(ErrorKind::ConnectionAborted.into()))?;
        Ok(Self { mount, end })
    }

    pub(crate) fn point(&self) -> &Path {
        self.mount.location.point()
    }

    pub(crate) fn device(&self) -> u64 {
        self.mount.device
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

/// The mount, and who guards it. On failure nothing is mounted any more, as far as we can help it.
fn guarded_mount(
    location: Location,
    guarded: bool,
) -> io::Result<(Arc<Located>, Option<Guardian>)> {
    let fallback = location.clone();
    let located = Located::find(location);
    let started = located.and_then(|mount| {
        let guardian = guarded.then(|| Guardian::start(&mount)).transpose()?;
        Ok((Arc::new(mount), guardian))
    });
    if let (Err(_), Location::Here(point)) = (&started, fallback) {
        drop(session::unmount(&point, true));
    }
    started
}
