//! Makes again what the daemon is reached by.

use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;

use super::{EventLoop, LISTENER};
use crate::base::start_error::ListenError;
use crate::event_loop::presence::Loss;

/// How long to wait before what was removed is made again, so that whoever removes a directory with
/// all that is in it gets to the end.
const REMOVAL: Duration = Duration::from_millis(100);

impl EventLoop {
    /// Somebody removed what makes the daemon reachable, or it may be possible to make it again.
    pub(super) fn note_loss(&mut self) {
        let new = self.presence.hear();
        let (at, loss) = self
            .loss
            .unwrap_or_else(|| (Instant::now() + REMOVAL, Loss::default()));
        let loss = loss.and(new);
        self.loss = (loss != Loss::default()).then_some((at, loss));
    }

    fn restore_companion(&self) {
        if let Some(companion) = self.presence.companion() {
            (companion.restore)();
        }
    }

    /// Makes again what was removed, when it is time.
    pub(super) fn stay_reachable(&mut self, now: Instant) {
        let Some((_, loss)) = self.loss.filter(|(at, _)| *at <= now) else {
            return;
        };
        self.loss = None;
        if loss.companion {
            self.restore_companion();
        }
        if !loss.socket {
            return;
        }
        let restored = self.restore_socket();
        // What is lost from here on is heard; what was lost before is looked for once more.
        self.presence.watch();
        let restored = restored.and_then(|()| self.restore_socket());
        let path = self.listener.path().display();
        match restored {
            Ok(()) => self.is_unreachable = false,
            Err(error) if self.is_unreachable => tracing::debug!(%error, "still out of reach"),
            Err(error) => {
                tracing::error!(
                    %error,
                    "{path} was removed and cannot be made again; this daemon serves who is \
                     connected, and exports what its branches hold when it ends: kill {}",
                    std::process::id()
                );
                self.is_unreachable = true;
            }
        }
    }

    fn restore_socket(&mut self) -> Result<(), ListenError> {
        let Some(old) = self.listener.restore()? else {
            return Ok(());
        };
        let failed = |error| ListenError::Io(self.listener.path().to_owned(), error);
        let registry = self.poll.registry();
        let (gone, new) = (old.socket().as_raw_fd(), self.listener.socket().as_raw_fd());
        registry
            .deregister(&mut SourceFd(&gone))
            .and_then(|()| registry.register(&mut SourceFd(&new), LISTENER, Interest::READABLE))
            .map_err(failed)?;
        tracing::warn!(socket = %self.listener.path().display(), "was removed and is made again");
        // Who connected before it went is in the old queue.
        while let Ok((stream, _)) = old.socket().accept() {
            if let Err(error) = self.admit(stream, Instant::now()) {
                tracing::warn!(%error, "a connection could not be set up");
            }
        }
        self.acceptable = true;
        self.restore_companion();
        Ok(())
    }
}
