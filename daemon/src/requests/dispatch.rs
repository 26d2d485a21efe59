//! Which function carries out which request.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agentfs_proto::message::{
    BranchToken, Code, Done, FsOp, FsReadDir, FsReply, FsRequest, Request, RequestChannelOpened,
    SnapshotCreate, TokenMade,
};
use agentfs_ring::requests::SLOTS;

use crate::base::refusal::Refusal;
use crate::base::reply::ReplyWithFds;
use crate::requests::files::{self, Files};
use crate::requests::open_session::OpenSession;
use crate::requests::watches::Watches;
use crate::requests::work::{Work, done, job};
use crate::requests::{branches, status, watch_list};
use crate::shared::branches::branch_named;
use crate::shared::jobs::Size;
use crate::shared::project;
use crate::shared::services::Services;

impl OpenSession {
    /// Carries out a request, or returns the job that does.
    pub(crate) fn answer(
        &mut self,
        request: Request,
        descriptor: Option<OwnedFd>,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.public.count_request();
        services.registrations().look(self.public.id());
        match request {
            // The session is open already; the connection has refused it.
            Request::Hello(_) => Err(Refusal::new(Code::HANDSHAKE, "the session is open already")),
            Request::Ping(ping) => done(Done { value: ping.nonce }),
            Request::Fs(FsRequest {
                branch,
                op: FsOp::ReadDir(it),
            }) => self.read_dir(&branch, it, services),
            Request::Fs(request) => done(self.files(request, services)?),
            Request::EventsSubscribe(it) => done(self.subscribe(&it, services)?),
            Request::EventsUnsubscribe(it) => done(self.unsubscribe(it.subscription, services)?),
            Request::MountList(list) => done(self.mounts(&list, services)),
            Request::Mount(it) => self.mount(&it, services),
            Request::Unmount(it) => self.unmount(it, services),
            Request::MountServe(it) => self.serve_mount(it, descriptor, services),
            Request::MountWait(it) => Self::wait_for_mount(&it, services),
            Request::Status(it) => done(status::report(&it, &self.public, services)),
            Request::Project(_) => done(project::info(services.core())),
            Request::Store(it) => self.store(&it, services),
            Request::WatchList(it) => done(watch_list::list(&it, &self.public, services)?),
            Request::Shutdown(it) => self.shut_down(&it, services),
            Request::BranchCreate(it) => self.create_branch(it, services),
            Request::BranchList(it) => done(branches::list(
                services.core(),
                services.origins(),
                services.holds(),
                &it,
                self.only(),
            )),
            Request::BranchDelete(it) => self.delete_branch(&it, services),
            Request::BranchDiff(it) => self.diff(it, services),
            Request::PageNext(it) => done(self.pages.lock().next(it.page)?),
            Request::BranchApply(it) => self.apply(it, services),
            Request::BranchToken(it) => done(self.make_token(&it, services)?),
            Request::BranchRetire(it) => self.retire(&it, services),
            Request::BranchExport(it) => self.export(it, services),
            Request::BranchHold(it) => self.hold(&it, services),
            Request::SnapshotCreate(it) => self.create_snapshot(it, services),
            Request::SnapshotList(it) => {
                done(branches::snapshots(services.core(), &it, self.only()))
            }
            Request::SnapshotRestore(it) => self.restore(&it, services),
            Request::SnapshotDelete(it) => self.delete_snapshot(&it, services),
            Request::QueueOpen(it) => self.watches(services, |all| all.open_queue(&it)),
            Request::QueueClose(it) => self.watches(services, |all| all.close_queue(it.queue)),
            Request::WatchRegisterKqueue(it) => self.watches(services, |all| all.kqueue(&it)),
            Request::WatchRegisterInotify(it) => self.watches(services, |all| all.inotify(&it)),
            Request::WatchRegisterFSEvents(it) => self.watches(services, |all| all.fs_events(&it)),
            Request::WatchRegisterTree(it) => self.watches(services, |all| all.tree(&it)),
            Request::WatchBatch(it) => self.watches(services, |all| Ok(all.batch(&it))),
            Request::WatchUnregister(it) => self.watches(services, |all| all.unregister(&it)),
            Request::WatchDoorbell(it) => {
                self.watches(services, |all| all.renew_doorbell(it.queue))
            }
            Request::UpdateDoorbellIdent(it) => {
                let set = |all: &mut Watches<'_>| all.queues.set_ident(it.queue, it.ident);
                self.watches(services, |all| set(all).map(|()| ReplyWithFds::done()))
            }
            Request::RequestChannelOpen(_) => self.open_requests(services),
        }
    }

    fn make_token(&self, request: &BranchToken, services: &Services) -> Result<TokenMade, Refusal> {
        self.require_owner("make tokens")?;
        let branch = self.branch(&request.name, services)?.id();
        let token = services.tokens().make(branch).map_err(|error| {
            Refusal::new(Code::RESOURCES, format!("no random numbers: {error}"))
        })?;
        Ok(TokenMade { token })
    }

    fn files(&mut self, request: FsRequest, services: &Services) -> Result<FsReply, Refusal> {
        let branch = self.branch(&request.branch, services)?;
        let mut files = Files {
            branch,
            caller: &self.caller,
            handles: &mut self.handles,
            max_handles: services.limits().handles,
        };
        let reply = files.answer(request.op)?;
        self.public.set_handles(self.handles.len());
        Ok(reply)
    }

    /// Lists a directory in a thread of its own, because the directory may be large.
    fn read_dir(
        &self,
        branch: &str,
        request: FsReadDir,
        services: &Services,
    ) -> Result<Work, Refusal> {
        let branch = self.branch(branch, services)?;
        let (caller, listing) = (self.caller.clone(), Arc::clone(&self.listing));
        job(Size::Short, move || {
            let page = files::read_dir(&branch, &caller, &request, &mut listing.lock())?;
            Ok(FsReply::from(page).into())
        })
    }

    /// Carries out a request about the queues and watches of the session.
    fn watches<T: Into<ReplyWithFds>>(
        &self,
        services: &Services,
        carry_out: impl FnOnce(&mut Watches<'_>) -> Result<T, Refusal>,
    ) -> Result<Work, Refusal> {
        let branch = services.core().branch(self.public.branch())?;
        let mut queues = self.public.queues();
        let mut watches = Watches {
            session: self.public.id(),
            branch: &branch,
            caller: &self.caller,
            queues: &mut queues,
            services,
        };
        Ok(Work::Done(carry_out(&mut watches)?.into()))
    }

    fn open_requests(&self, services: &Services) -> Result<Work, Refusal> {
        let (id, branch) = (self.public.id(), self.public.branch());
        let channel = services
            .registrations()
            .open(id, branch)
            .map_err(|error| Refusal::new(Code::RESOURCES, error.to_string()))?;
        let opened = RequestChannelOpened { slots: SLOTS };
        Ok(Work::Done(ReplyWithFds::with(opened, vec![channel])))
    }

    /// Returns whether a job keeps a branch as it is that this request would change. The request
    /// has to wait then, so that the other sessions do not.
    pub(crate) fn must_wait(&self, request: &Request, services: &Services) -> bool {
        let held = services.jobs().held();
        if held.is_empty() {
            return false;
        }
        let (Request::Fs(FsRequest { branch: named, .. })
        | Request::SnapshotCreate(SnapshotCreate { branch: named, .. })) = request
        else {
            return false;
        };
        let named = if named.is_empty() {
            Some(self.public.branch())
        } else {
            branch_named(services.core(), named).ok()
        };
        named.is_some_and(|branch| held.contains(&branch))
            || self.handles.branches().any(|branch| held.contains(&branch))
    }
}
