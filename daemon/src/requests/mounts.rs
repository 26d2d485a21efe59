//! Mount requests.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::id::MountId;
use agentfs_proto::message::{
    Done, Mount, MountInfo, MountList, MountServe, MountWait, Mounts, Unmount,
};

use crate::base::refusal::Refusal;
use crate::mounts::table;
use crate::requests::open_session::OpenSession;
use crate::requests::work::{Work, job};
use crate::shared::jobs::Size;
use crate::shared::services::Services;

/// Mounts on one page: with the longest paths they fit a frame.
const MOUNTS_PER_PAGE: usize = 12;

impl OpenSession {
    pub(super) fn mount(&self, request: &Mount, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("mount")?;
        let branch = self.branch(&request.branch, services)?;
        let mounting = Arc::clone(services.mounting());
        let path = request.path.as_path().to_owned();
        job(Size::Short, move || {
            let (id, mount) = mounting.mount(branch.id(), &path)?;
            let name = branch.name().to_owned();
            Ok(mount_info(id, &mount, name).into())
        })
    }

    pub(super) fn unmount(&self, request: Unmount, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("unmount")?;
        let mounting = Arc::clone(services.mounting());
        job(Size::Short, move || {
            mounting.unmount(request.path.as_path(), request.detach)?;
            Ok(Done { value: 0 }.into())
        })
    }

    pub(super) fn mounts(&self, request: &MountList, services: &Services) -> Mounts {
        let shown = services.mounts().after(MountId(request.after)).into_iter();
        let mut shown =
            shown.filter(|(_, it)| !self.public.is_bound() || it.branch == self.public.branch());
        let name = |branch| {
            services
                .core()
                .branch(branch)
                .map(|it| it.name().to_owned())
        };
        let mounts = shown
            .by_ref()
            .take(MOUNTS_PER_PAGE)
            .map(|(id, mount)| mount_info(id, &mount, name(mount.branch).unwrap_or_default()))
            .collect();
        Mounts {
            mounts,
            more: shown.next().is_some(),
        }
    }

    pub(super) fn serve_mount(
        &self,
        request: MountServe,
        device: Option<OwnedFd>,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.require_owner("mount")?;
        let branch = self.branch(&request.branch, services)?;
        let device = device.ok_or_else(|| Refusal::invalid("no descriptor came along"))?;
        let mounting = Arc::clone(services.mounting());
        job(Size::Short, move || {
            let (id, mount) = mounting.serve(branch.id(), device, &request)?;
            let name = branch.name().to_owned();
            Ok(mount_info(id, &mount, name).into())
        })
    }

    pub(super) fn wait_for_mount(
        request: &MountWait,
        services: &Services,
    ) -> Result<Work, Refusal> {
        let mounts = services.mounts().clone();
        let id = MountId(request.id);
        let at_most = Duration::from_millis(request.timeout_ms.into());
        job(Size::Wait, move || {
            let value = mounts.wait_gone(id, at_most).into();
            Ok(Done { value }.into())
        })
    }
}

fn mount_info(id: MountId, mount: &table::Mount, branch_name: String) -> MountInfo {
    MountInfo {
        id: id.0,
        branch: mount.branch.0,
        branch_name,
        st_dev: mount.st_dev,
        path: mount.path.as_path().into(),
    }
}
