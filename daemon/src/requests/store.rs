//! The request about the store: where it is, what it takes, and to make it smaller.

use agentfs_core::{BackstoreMode, Errno, FsCore, LEAST_MAX_STORE};
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
        let (core, it) = (services.core().clone(), it.clone());
        job(Size::Short, move || {
            match it.action {
                StoreAction::Show => {}
                StoreAction::Compact => core.compact()?,
                StoreAction::Limit => limit(&core, it.most)?,
            }
            Ok(report(&core).into())
        })
    }
}

fn limit(core: &FsCore, most: u64) -> Result<(), Refusal> {
    let most = Some(most).filter(|most| *most > 0);
    core.set_max_store(most).map_err(|errno| match errno {
        Errno::EINVAL if core.store_usage().is_some() => Refusal::invalid(format!(
            "a store may not be limited to less than {LEAST_MAX_STORE} bytes"
        )),
        Errno::EINVAL => Refusal::invalid("branches in memory have no store to limit".to_owned()),
        errno => errno.into(),
    })
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
        taken: usage.map_or(0, |it| it.taken),
        most: usage.and_then(|it| it.most).unwrap_or(0),
        warning: usage.and_then(|it| it.warning()).unwrap_or_default(),
        failure: core.store_failure().unwrap_or_default(),
    }
}
