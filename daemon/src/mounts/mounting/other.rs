//! Branches cannot be mounted on this system.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use agentfs_core::event::Envelope;
use agentfs_core::id::{BranchId, MountId};
use agentfs_core::{EventsDisabled, FsCore};
use agentfs_proto::message::{Code, MountServe};

use crate::base::config::Config;
use crate::base::echo_mode::EchoMode;
use crate::base::refusal::Refusal;
use crate::base::wake::WakeQueue;
use crate::mounts::echo::Echoing;
use crate::mounts::table::{Mount, MountTable};

/// No mounts.
#[derive(Debug)]
pub(crate) struct Mounting;

impl Mounting {
    pub(crate) fn new(
        _: &FsCore,
        _: &MountTable,
        _: &Arc<WakeQueue>,
        _: &Config,
    ) -> Result<Self, EventsDisabled> {
        Ok(Self)
    }

    pub(crate) fn echo(&self, _: EchoMode) -> io::Result<Echoing> {
        Ok(Echoing)
    }

    pub(crate) fn settler(&self) -> impl Fn(&Envelope) + Send + Sync + 'static {
        |_| {}
    }

    /// Does nothing: no mounts are kept.
    pub(crate) fn take_over(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn forget_all(&self) {}

    pub(crate) fn mount(&self, _: BranchId, _: &Path) -> Result<(MountId, Mount), Refusal> {
        Err(unsupported())
    }

    pub(crate) fn serve(
        &self,
        _: BranchId,
        _: OwnedFd,
        _: &MountServe,
    ) -> Result<(MountId, Mount), Refusal> {
        Err(unsupported())
    }

    pub(crate) fn unmount(&self, _: &Path, _: bool) -> Result<(), Refusal> {
        Err(unsupported())
    }
}

fn unsupported() -> Refusal {
    Refusal::new(Code::UNSUPPORTED, "branches are mounted on Linux only")
}
