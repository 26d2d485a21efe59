//! The threads that answer the requests of one mount, and its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use agentfs_core::id::MountId;
use fuser::Session;

use crate::adapter::Adapter;
use crate::error::UnmountError;
use crate::guardian::Guardian;
use crate::session;

/// How long unmounting waits for the threads to end: they have nothing left to do.
const END: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Server {
    point: PathBuf,
    device: u64,
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
    /// Serves a session that is mounted at `point` until the kernel ends it, and calls `at_end` then.
    pub(crate) fn start(
        session: Session<Adapter>,
        id: MountId,
        point: &Path,
        guarded: bool,
        at_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let end = Arc::new(End::default());
        let (started, starts) = mpsc::channel();
        let owned_point = point.to_owned();
        let owned_end = Arc::clone(&end);
        let thread = move || {
            let serving = std::thread::Builder::new()
                .name(format!("agentfs-serve-{id}"))
                .spawn(move || session.run());
            // This thread lives as long as the mount, which is what the guardian goes by.
            let (guardian, found) = match serving.as_ref().map(|_| look(&owned_point, guarded)) {
                Ok(Ok((guardian, point, device))) => (guardian, Ok((point, device))),
                Ok(Err(error)) => (None, Err(error)),
                Err(error) => (None, Err(io::Error::new(error.kind(), error.to_string()))),
            };
            if found.is_err() {
                // When this fails too, nothing is mounted any more.
                drop(session::unmount(&owned_point, true));
            }
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
        let (point, device) = starts
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::ConnectionAborted.into()))?;
        Ok(Self { point, device, end })
    }

    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    pub(crate) fn device(&self) -> u64 {
        self.device
    }

    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        self.end.wait(at_most)
    }

    pub(crate) fn unmount(&self, detach: bool) -> Result<(), UnmountError> {
        if self.wait(Duration::ZERO) {
            return Err(UnmountError::NotMounted(self.point.clone()));
        }
        session::unmount(&self.point, detach).map_err(|error| {
            let point = self.point.clone();
            if error.kind() == io::ErrorKind::ResourceBusy {
                UnmountError::Busy(point)
            } else if error.kind() == io::ErrorKind::InvalidInput {
                UnmountError::NotMounted(point)
            } else {
                UnmountError::Refused(point, error)
            }
        })?;
        if !detach && !self.wait(END) {
            tracing::warn!(point = %self.point.display(), "the threads of a mount go on");
        }
        Ok(())
    }
}

/// The mount as the kernel sees it, and who guards it.
fn look(point: &Path, guarded: bool) -> io::Result<(Option<Guardian>, PathBuf, u64)> {
    let point = point.canonicalize()?;
    let device = rustix::fs::stat(&point)?.st_dev;
    session::raise_read_ahead(device);
    let guardian = guarded
        .then(|| Guardian::start(&point, device))
        .transpose()?;
    Ok((guardian, point, device))
}
