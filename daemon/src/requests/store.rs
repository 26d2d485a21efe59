//! The request about the store: where it is, what it takes, and to make it smaller.

use agentfs_core::{BackstoreMode, FsCore};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Store, StoreAction, StoreReport};

use crate::base::refusal::Refusal;
use crate::requests::open_session::OpenSession;
use crate::requests::work::{Work, job};
use crate::shared::branches::is_base;
use crate::shared::jobs::Size;
use crate::shared::services::Services;

impl OpenSession {
    pub(super) fn store(&self, it: &Store, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("look at the store")?;
        let (core, action) = (services.core().clone(), it.action);
        job(Size::Short, move || {
            if action == StoreAction::Compact {
                core.compact()?;
            }
            Ok(report(&core).into())
        })
    }
}

fn report(core: &FsCore) -> StoreReport {
    let path = match &core.config().backstore {
        BackstoreMode::Memory => Bytes::default(),
        BackstoreMode::Disk(path) => path.as_path().into(),
    };
    let usage = core.store_usage();
    let made = core.snapshots();
    StoreReport {
        path,
        content: usage.map_or(0, |it| it.content),
        free: usage.map_or(0, |it| it.free),
        log: usage.map_or(0, |it| it.log),
        branches: core.branches().len() as u64,
        snapshots: made.iter().filter(|it| !is_base(it)).count() as u64,
        failure: core.store_failure().unwrap_or_default(),
    }
}
