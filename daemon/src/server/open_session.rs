//! A session after its handshake: what it may ask, and what it has.

mod long;
mod runs;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use agentfs_core::event::Origin;
use agentfs_core::id::{BranchId, MountId, SessionId};
use agentfs_core::{Branch, Caller};
use agentfs_proto::message::{
    BranchToken, Code, Done, EventsSubscribe, FsReply, FsRequest, Mount, MountInfo, MountList,
    Mounts, QueueStatus, Reply, Request, RequestChannelOpened, SessionStatus, TokenMade, Unmount,
};

use agentfs_ring::requests::SLOTS;

use self::long::job;
use super::answer::Answer;
use super::branches;
use super::broadcast::Subscription;
use super::differences::Pages;
use super::files::{Files, Handles};
use super::jobs::{Job, Size};
use super::link::Link;
use super::mounts;
use super::peer::Peer;
use super::project;
use super::refusal::Refusal;
use super::services::{Services, lock};
use super::watched;
use super::watches::{Queues, Watches, cleaned};

/// What a session has.
#[derive(Debug)]
pub(crate) struct OpenSession {
    public: Arc<PublicSession>,
    caller: Caller,
    handles: Handles,
    last_subscription: u64,
    subscriptions: usize,
    pages: Arc<Mutex<Pages>>,
}

/// What becomes of a request.
pub(crate) enum Work {
    /// It is answered.
    Done(Answer),
    /// It may take long: the answer comes from elsewhere.
    Job(Job),
}

fn done(reply: impl Into<Reply>) -> Result<Work, Refusal> {
    Ok(Work::Done(Answer::with(reply, Vec::new())))
}

/// What others may see of a session.
#[derive(Debug)]
pub(crate) struct PublicSession {
    id: SessionId,
    peer: Peer,
    program: String,
    branch: BranchId,
    bound: bool,
    requests: AtomicU64,
    handles: AtomicU32,
    queues: Mutex<Queues>,
}

impl PublicSession {
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    /// The process, and the branch of which it is told.
    #[cfg(target_os = "linux")]
    pub(crate) fn hears(&self) -> (u32, BranchId) {
        (self.peer.pid, self.branch)
    }

    /// Whether a token binds it to its branch.
    pub(crate) fn is_bound(&self) -> bool {
        self.bound
    }

    pub(crate) fn status(&self) -> SessionStatus {
        let queues: Vec<QueueStatus> = lock(&self.queues).status();
        SessionStatus {
            session: self.id.0,
            pid: self.peer.pid,
            program: self.program.clone(),
            branch: self.branch.0,
            bound: self.bound,
            handles: self.handles.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            queues,
        }
    }
}

impl OpenSession {
    pub(crate) fn new(
        id: SessionId,
        peer: Peer,
        mut program: String,
        branch: BranchId,
        bound: bool,
    ) -> Self {
        // It is shown to people: a name, not a text.
        program.truncate(program.floor_char_boundary(64));
        let caller = Caller::new(peer.uid, peer.gid)
            .with_pid(peer.pid)
            .with_origin(Origin::Session(id));
        let public = PublicSession {
            id,
            peer,
            program,
            branch,
            bound,
            requests: AtomicU64::new(1),
            handles: AtomicU32::new(0),
            queues: Mutex::default(),
        };
        Self {
            public: Arc::new(public),
            caller,
            handles: Handles::default(),
            last_subscription: 0,
            subscriptions: 0,
            pages: Arc::default(),
        }
    }

    pub(crate) fn public(&self) -> &Arc<PublicSession> {
        &self.public
    }

    /// Moves broadcasts to the connection, while it takes them.
    pub(crate) fn take_broadcasts(&self, services: &Services, link: &mut Link) {
        if self.subscriptions > 0 && !link.is_stalled() {
            for frame in services.broadcasts().take(self.public.id) {
                link.push_frame(frame, Vec::new());
            }
        }
    }

    /// Carries out a request, or says what is to be done for it elsewhere.
    pub(crate) fn answer(
        &mut self,
        request: Request,
        descriptor: Option<OwnedFd>,
        services: &Services,
    ) -> Result<Work, Refusal> {
        self.public.requests.fetch_add(1, Ordering::Relaxed);
        services.registrations().look(self.public.id);
        match request {
            // The session is open already; the connection has refused it.
            Request::Hello(_) => Err(Refusal::new(Code::HANDSHAKE, "the session is open already")),
            Request::Ping(ping) => done(Done { value: ping.nonce }),
            Request::Fs(request) => done(self.files(request, services)?),
            Request::EventsSubscribe(it) => done(self.subscribe(&it, services)?),
            Request::EventsUnsubscribe(it) => done(self.unsubscribe(it.subscription, services)?),
            Request::MountList(list) => done(self.mounts(&list, services)),
            Request::Mount(it) => self.mount(&it, services),
            Request::Unmount(it) => self.unmount(it, services),
            Request::MountServe(it) => self.serve_mount(it, descriptor, services),
            Request::MountWait(it) => Self::wait_for_mount(&it, services),
            Request::Status(status) => done(services.report(&status, &self.public)),
            Request::Project(_) => done(project::info(services.core())),
            Request::WatchList(it) => done(watched::list(&it, &self.public, services)?),
            Request::Shutdown(it) => self.shut_down(&it, services),
            Request::BranchCreate(it) => self.create_branch(&it, services),
            Request::BranchList(it) => done(branches::list(
                services.core(),
                services.origins(),
                services.holds(),
                &it,
                self.only(),
            )),
            Request::BranchDelete(it) => self.delete_branch(&it, services),
            Request::BranchDiff(it) => self.diff(it, services),
            Request::PageNext(it) => done(lock(&self.pages).next(it.page)?),
            Request::BranchApply(it) => self.apply(it, services),
            Request::BranchToken(it) => done(self.make_token(&it, services)?),
            Request::BranchRetire(it) => self.retire(&it, services),
            Request::BranchExport(it) => self.export(it, services),
            Request::BranchHold(it) => self.hold(&it, services),
            Request::SnapshotCreate(it) => {
                let branch = self.branch(&it.branch, services)?.id();
                let (core, origins) = (services.core(), services.origins());
                done(branches::snapshot(
                    core,
                    origins,
                    &self.caller,
                    branch,
                    &it,
                )?)
            }
            Request::SnapshotList(it) => done(branches::snapshots(
                services.core(),
                services.origins(),
                &it,
                self.only(),
            )),
            Request::SnapshotRestore(it) => self.restore(&it, services),
            Request::SnapshotDelete(it) => self.delete_snapshot(&it, services),
            Request::QueueOpen(it) => self.watches(services, |mut to| to.open_queue(&it)),
            Request::QueueClose(it) => self.watches(services, |mut to| to.close_queue(it.queue)),
            Request::WatchRegisterKqueue(it) => self.watches(services, |mut to| to.kqueue(&it)),
            Request::WatchRegisterInotify(it) => self.watches(services, |mut to| to.inotify(&it)),
            Request::WatchRegisterFSEvents(it) => {
                self.watches(services, |mut to| to.fs_events(&it))
            }
            Request::WatchRegisterTree(it) => self.watches(services, |mut to| to.tree(&it)),
            Request::WatchBatch(it) => self.watches(services, |mut to| Ok(to.batch(&it))),
            Request::WatchUnregister(it) => self.watches(services, |to| to.unregister(&it)),
            Request::WatchDoorbell(it) => self.watches(services, |to| to.renew_doorbell(it.queue)),
            Request::UpdateDoorbellIdent(it) => {
                self.watches(services, |to| to.queues.set_ident(it.queue, it.ident))
            }
            Request::RequestChannelOpen(_) => self.open_requests(services),
        }
    }

    fn make_token(&self, request: &BranchToken, services: &Services) -> Result<TokenMade, Refusal> {
        self.require_owner("make tokens")?;
        let branch = self.branch(&request.name, services)?.id();
        let token = services.make_token(branch).map_err(|error| {
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
        let open = u32::try_from(self.handles.len()).unwrap_or(u32::MAX);
        self.public.handles.store(open, Ordering::Relaxed);
        Ok(reply)
    }

    /// Carries out a request about queues or watches.
    fn watches<A: Into<Answer>>(
        &self,
        services: &Services,
        carry_out: impl FnOnce(Watches<'_>) -> Result<A, Refusal>,
    ) -> Result<Work, Refusal> {
        let branch = services.core().branch(self.public.branch)?;
        let mut queues = lock(&self.public.queues);
        let watches = Watches {
            session: self.public.id,
            branch: &branch,
            caller: &self.caller,
            queues: &mut queues,
            services,
        };
        carry_out(watches).map(|answer| Work::Done(answer.into()))
    }

    fn open_requests(&self, services: &Services) -> Result<Work, Refusal> {
        let (id, branch) = (self.public.id, self.public.branch);
        let channel = services
            .registrations()
            .open(id, branch)
            .map_err(|error| Refusal::new(Code::RESOURCES, error.to_string()))?;
        let opened = RequestChannelOpened { slots: SLOTS };
        Ok(Work::Done(Answer::with(opened, vec![channel])))
    }

    fn subscribe(
        &mut self,
        request: &EventsSubscribe,
        services: &Services,
    ) -> Result<Done, Refusal> {
        let limit = services.limits().subscriptions;
        if self.subscriptions >= limit {
            let text = format!("the session has its {limit} subscriptions; end some");
            return Err(Refusal::limit(text));
        }
        let mut path = cleaned(&request.path);
        if path == b"/" {
            path.clear();
        }
        self.last_subscription += 1;
        self.subscriptions += 1;
        let (branch, activity) = (self.public.branch, request.activity);
        let subscription = Subscription {
            branch,
            path,
            activity,
        };
        services
            .broadcasts()
            .subscribe(self.public.id, self.last_subscription, subscription);
        Ok(Done {
            value: self.last_subscription,
        })
    }

    fn unsubscribe(&mut self, number: u64, services: &Services) -> Result<Done, Refusal> {
        let (branch, id) = (self.public.branch, self.public.id);
        if !services.broadcasts().unsubscribe(branch, id, number) {
            let text = format!("the session has no subscription {number}");
            return Err(Refusal::not_found(text));
        }
        self.subscriptions -= 1;
        Ok(Done { value: 0 })
    }

    fn mount(&self, request: &Mount, services: &Services) -> Result<Work, Refusal> {
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

    fn unmount(&self, request: Unmount, services: &Services) -> Result<Work, Refusal> {
        self.require_owner("unmount")?;
        let mounting = Arc::clone(services.mounting());
        job(Size::Short, move || {
            mounting.unmount(request.path.as_path(), request.detach)?;
            Ok(Done { value: 0 }.into())
        })
    }

    fn mounts(&self, request: &MountList, services: &Services) -> Mounts {
        let shown = services.mounts().after(MountId(request.after)).into_iter();
        let mut shown =
            shown.filter(|(_, it)| !self.public.bound || it.branch == self.public.branch);
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

    /// The branch that a request names, if the session may use it.
    fn branch(&self, name: &str, services: &Services) -> Result<Branch, Refusal> {
        let own = self.public.branch;
        if name.is_empty() {
            return Ok(services.core().branch(own)?);
        }
        let named = branches::branch_named(services.core(), name)?;
        if named != own {
            self.require_owner("work in another branch")?;
        }
        Ok(services.core().branch(named)?)
    }

    /// The branch that a bound session is confined to.
    fn only(&self) -> Option<BranchId> {
        self.public.bound.then_some(self.public.branch)
    }

    /// Refuses what only a session without a token may do.
    fn require_owner(&self, what: &str) -> Result<(), Refusal> {
        if self.public.bound {
            let text = format!("a session that is bound to a branch by a token may not {what}");
            return Err(Refusal::new(Code::FORBIDDEN, text));
        }
        Ok(())
    }

    /// Gives back everything.
    pub(crate) fn end(mut self, services: &Services) {
        let id = self.public.id;
        services.stops().end(id);
        services.jobs().cancel(id);
        services.sessions().remove(&id);
        services.registrations().close(id);
        services.watches().close_session(id);
        lock(&self.public.queues).end(services);
        for number in 1..=self.last_subscription {
            services
                .broadcasts()
                .unsubscribe(self.public.branch, id, number);
        }
        services.broadcasts().forget(id);
        if services.holds().end(id) {
            services.tidy();
        }
        let held = services.jobs().held();
        if self.handles.branches().any(|branch| held.contains(&branch)) {
            let Self {
                mut handles,
                caller,
                ..
            } = self;
            services.jobs().clear_up(move || handles.close_all(&caller));
        } else {
            self.handles.close_all(&self.caller);
        }
    }
}

/// Mounts on one page: with the longest paths they fit a frame.
const MOUNTS_PER_PAGE: usize = 12;

fn mount_info(id: MountId, mount: &mounts::Mount, branch_name: String) -> MountInfo {
    MountInfo {
        id: id.0,
        branch: mount.branch.0,
        branch_name,
        st_dev: mount.st_dev,
        path: mount.path.as_path().into(),
    }
}
