//! The thread that syncs the store and writes its checkpoints.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agentfs_core::{BackstoreMode, FsCore};

use crate::shared::catch_up::EXPECTED;

/// What a power cut may take of what was not synced.
const PERIOD: Duration = Duration::from_secs(5);

/// The thread; it ends with a last sync when this is dropped.
#[derive(Debug)]
pub(crate) struct Maintenance {
    /// Dropped first, which wakes the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Maintenance {
    /// Starts the thread, if the filesystem has a store. It forgets what is kept for the programs of an
    /// earlier daemon when none of them is expected any more.
    pub(crate) fn start(
        core: &FsCore,
        forget: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Option<Self>> {
        if core.config().backstore == BackstoreMode::Memory {
            return Ok(None);
        }
        let (stop, stopped) = channel::<()>();
        let core = core.clone();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                let (begun, mut forget) = (Instant::now(), Some(forget));
                let mut is_warned = false;
                loop {
                    let is_over = stopped.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout);
                    if let Err(errno) = core.maintain() {
                        let why = core.store_failure();
                        tracing::error!(%errno, why, "the store cannot be synced");
                    }
                    let warning = core.store_usage().and_then(|it| it.warning());
                    if let Some(warning) = warning.as_ref().filter(|_| !is_warned) {
                        tracing::warn!("{warning}");
                    }
                    is_warned = warning.is_some();
                    if is_over {
                        return;
                    }
                    if let Some(forget) = forget.take_if(|_| begun.elapsed() >= EXPECTED) {
                        forget();
                    }
                }
            })?;
        Ok(Some(Self {
            stop: Some(stop),
            thread: Some(thread),
        }))
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that syncs the store has failed");
        }
    }
}
