//! A subscriber that speaks the protocol itself.

use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use agentfs_proto::client::{Client, Deadline};
use agentfs_proto::message::{Hello, QueueKind, QueueOpen, WatchRegisterTree};
use agentfs_proto::record::{EventRef, Kind};
use agentfs_ring::doorbell::{BellKind, Ringer, Waiter, Woken};
use agentfs_ring::{ArmOutcome, Bell, Consumer, OwnerId};

use super::Heard;
use crate::model::Failure;

#[derive(Debug)]
pub(crate) struct NativeReader {
    client: Client,
    consumer: Consumer,
    refill: Ringer,
    doorbell: Waiter,
}

impl NativeReader {
    /// Watches trees.
    pub(crate) fn open(socket: &Path, roots: &[&Path]) -> Result<Self, Failure> {
        let soon = || Deadline::after(Duration::from_secs(30));
        let (mut client, _) = Client::connect(socket, Hello::new("agentfs-bench"), soon())?;
        let open = QueueOpen {
            kind: QueueKind::Native,
            capacity: 0,
        };
        let queue = client.open_queue(open, soon())?;
        for (number, root) in (1..).zip(roots) {
            let watch = WatchRegisterTree {
                queue: queue.opened.queue,
                watch: number,
                path: (*root).into(),
                activity: false,
            };
            client.call(watch, soon())?;
        }
        Ok(Self {
            client,
            consumer: Consumer::open(queue.ring)?,
            refill: Ringer::from_fd(queue.refill, BellKind::EventFd),
            doorbell: Waiter::from_fd(queue.doorbell, BellKind::Pipe),
        })
    }

    /// Sleeps unless something is there by now.
    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        if claim.ok_or("somebody else reads")?.arm()? == ArmOutcome::WorkPending {
            return Ok(());
        }
        match self.doorbell.wait(Some(self.client.as_fd()), None)? {
            Woken::Rung => {
                self.doorbell.clear()?;
                Ok(())
            }
            Woken::PeerGone | Woken::TimedOut => Err("the daemon is gone".into()),
        }
    }

    /// What is there by now.
    pub(crate) fn take(&mut self, hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        let mut claim = claim.ok_or("somebody else reads")?;
        while let Some(record) = claim.next()? {
            let event = EventRef::parse(&record)?;
            if event.head().kind == Kind::OVERFLOW {
                hear(Heard::Overflow);
            }
            let name = Path::new(std::ffi::OsStr::from_bytes(event.path())).file_name();
            if let Some(heard) = name.and_then(|it| Heard::named(it.as_bytes())) {
                hear(heard);
            }
        }
        if claim.release() == Bell::Ring {
            self.refill.ring()?;
        }
        Ok(())
    }
}
