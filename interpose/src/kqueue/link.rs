//! The engine of this process, and where it finds its daemon.

use std::sync::OnceLock;

use super::daemon::{Channel, Daemon, QueueId, WatchOp};
use super::engine::Engine;
use super::system;

/// The connection of this process, once somebody has made one.
static DAEMON: OnceLock<&'static dyn Daemon> = OnceLock::new();

/// The process's own connection as a [`Daemon`]. Without one, no file is covered and every call goes
/// straight to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Link;

/// Gives the engine its connection. False when it has one.
pub fn attach(daemon: &'static dyn Daemon) -> bool {
    DAEMON.set(daemon).is_ok()
}

/// The engine of this process.
#[inline]
#[must_use]
pub fn engine() -> &'static Engine<Link> {
    static ENGINE: Engine<Link> = Engine::new(system::ORIGINALS, Link);
    &ENGINE
}

impl Daemon for Link {
    fn covers(&self, dev: u64) -> bool {
        DAEMON.get().is_some_and(|daemon| daemon.covers(dev))
    }

    fn open_queue(&self) -> Option<(QueueId, Channel)> {
        DAEMON.get()?.open_queue()
    }

    fn apply(&self, queue: QueueId, ops: &[WatchOp]) {
        if let Some(daemon) = DAEMON.get() {
            daemon.apply(queue, ops);
        }
    }

    fn close_queue(&self, queue: QueueId) {
        if let Some(daemon) = DAEMON.get() {
            daemon.close_queue(queue);
        }
    }

    fn reserved_ident(&self, queue: QueueId, ident: u64) {
        if let Some(daemon) = DAEMON.get() {
            daemon.reserved_ident(queue, ident);
        }
    }

    fn lost(&self, queue: QueueId) {
        if let Some(daemon) = DAEMON.get() {
            daemon.lost(queue);
        }
    }
}
