//! The control messages.
//!
//! A program sends [`Request`]s, each with a number it chooses, and gets one [`Reply`] with that
//! number for each, in the order of the requests. Number 0 is for what was not asked for:
//! [`FsEventBroadcast`].
//!
//! Descriptors travel from the daemon to the program, because the process that makes a
//! descriptor decides whether writing to it can block. [`FromDaemon::descriptors`] says how many come with a
//! frame. The one exception is [`MountServe`]: only the process that mounts can open its `/dev/fuse`.

mod branch;
mod fs;
mod project;
mod session;
mod status;
mod store;
mod watch;

pub use self::branch::*;
pub use self::fs::*;
pub use self::project::*;
pub use self::session::*;
pub use self::status::*;
pub use self::store::*;
pub use self::watch::*;

use crate::ssz::{answers, container, requests};

/// The lowest protocol version this crate speaks.
pub const VERSION_MIN: u32 = 2;
/// The highest protocol version this crate speaks.
pub const VERSION_MAX: u32 = 2;

container! {
    /// What a frame from a program holds.
    pub struct ToDaemon {
        /// Chosen by the program, not 0.
        pub request: u64,
        /// What it asks.
        pub body: Request,
    }

    /// What a frame from the daemon holds.
    pub struct FromDaemon {
        /// The number of the request that this answers, or 0.
        pub request: u64,
        /// How many descriptors come with this frame.
        pub descriptors: u8,
        /// The answer.
        pub body: Reply,
    }
}

/// A request with the type of its answer.
pub trait Call: Into<Request> {
    /// What [`Reply`] holds when the request was carried out.
    type Answer: TryFrom<Reply, Error = Reply>;
}

requests! {
    /// What a program asks of the daemon.
    pub enum Request: Call {
        /// The first request of every connection.
        0 => Hello(Hello) -> Welcome,
        /// Asks for a sign of life.
        1 => Ping(Ping) -> Done,
        /// Makes a queue.
        2 => QueueOpen(QueueOpen) -> QueueOpened,
        /// Ends a queue and its watches.
        3 => QueueClose(QueueClose) -> Done,
        /// A watch of a kqueue.
        4 => WatchRegisterKqueue(WatchRegisterKqueue) -> WatchRegistered,
        /// A watch of an inotify instance.
        5 => WatchRegisterInotify(WatchRegisterInotify) -> WatchRegistered,
        /// The watch of an FSEvents stream.
        6 => WatchRegisterFSEvents(WatchRegisterFSEvents) -> WatchRegistered,
        /// A native watch of a tree.
        7 => WatchRegisterTree(WatchRegisterTree) -> WatchRegistered,
        /// Many registrations at once.
        8 => WatchBatch(WatchBatch) -> WatchBatched,
        /// Ends a watch.
        9 => WatchUnregister(WatchUnregister) -> Done,
        /// Asks for a new doorbell of a queue.
        10 => WatchDoorbell(WatchDoorbell) -> DoorbellGiven,
        /// Reports the ident of a kqueue's reserved `EVFILT_USER` knote.
        11 => UpdateDoorbellIdent(UpdateDoorbellIdent) -> Done,
        /// Asks for [`FsEventBroadcast`]s on this connection.
        12 => EventsSubscribe(EventsSubscribe) -> Done,
        /// Ends [`FsEventBroadcast`]s.
        13 => EventsUnsubscribe(EventsUnsubscribe) -> Done,
        /// Makes the session's request channel.
        14 => RequestChannelOpen(RequestChannelOpen) -> RequestChannelOpened,
        /// An operation of the filesystem.
        32 => Fs(FsRequest) -> FsReply,
        /// Makes a branch.
        48 => BranchCreate(BranchCreate) -> BranchCreated,
        /// Lists the branches.
        49 => BranchList(BranchList) -> Branches,
        /// Deletes a branch.
        50 => BranchDelete(BranchDelete) -> Done,
        /// Compares a branch with what it came from.
        51 => BranchDiff(BranchDiff) -> Diff,
        /// Carries the changes of a branch over to the lower directory.
        52 => BranchApply(BranchApply) -> Applied,
        /// The next page of a [`BranchDiff`].
        53 => PageNext(PageNext) -> Diff,
        /// Makes the token that binds sessions to a branch.
        54 => BranchToken(BranchToken) -> TokenMade,
        /// Deletes a branch when it is no longer used.
        55 => BranchRetire(BranchRetire) -> Done,
        /// Makes a snapshot.
        56 => SnapshotCreate(SnapshotCreate) -> SnapshotCreated,
        /// Lists the snapshots.
        57 => SnapshotList(SnapshotList) -> Snapshots,
        /// Sets a branch back to a snapshot.
        58 => SnapshotRestore(SnapshotRestore) -> Done,
        /// Deletes a snapshot.
        59 => SnapshotDelete(SnapshotDelete) -> Done,
        /// Writes what a branch changed to a directory.
        60 => BranchExport(BranchExport) -> Exported,
        /// Keeps a branch as one at work while the session lasts.
        61 => BranchHold(BranchHold) -> Done,
        /// Lists the mounts.
        64 => MountList(MountList) -> Mounts,
        /// Sessions, queues and counters.
        65 => Status(Status) -> StatusReport,
        /// Ends the daemon.
        66 => Shutdown(Shutdown) -> Ending,
        /// Mounts a branch.
        67 => Mount(Mount) -> MountInfo,
        /// Takes a mount away.
        68 => Unmount(Unmount) -> Done,
        /// Shows a branch in a mount of the program's own; descriptor: its `/dev/fuse`.
        69 => MountServe(MountServe) -> MountInfo,
        /// Waits for the end of a mount.
        70 => MountWait(MountWait) -> Done,
        /// What a queue watches.
        71 => WatchList(WatchList) -> WatchesListed,
        /// Which directory is below the branches.
        72 => Project(Project) -> ProjectInfo,
        /// Where the branches are kept.
        73 => Store(Store) -> StoreReport,
    }
}

answers! {
    /// What the daemon says.
    pub enum Reply {
        /// The request was refused; nothing was changed.
        0 => Error(ErrorReply),
        /// Answers [`Hello`].
        1 => Welcome(Welcome),
        /// The request was carried out, and has no other answer.
        2 => Done(Done),
        /// Answers [`QueueOpen`]; descriptors: ring, refill doorbell, doorbell.
        3 => QueueOpened(QueueOpened),
        /// Answers [`WatchBatch`].
        4 => WatchBatched(WatchBatched),
        /// Answers a single registration.
        5 => WatchRegistered(WatchRegistered),
        /// Answers [`WatchDoorbell`]; descriptor: the doorbell.
        6 => DoorbellGiven(DoorbellGiven),
        /// A change, for a session that asked by [`EventsSubscribe`]. Its request number is 0.
        7 => FsEventBroadcast(FsEventBroadcast),
        /// Answers [`RequestChannelOpen`]; descriptor: the channel.
        8 => RequestChannelOpened(RequestChannelOpened),
        /// Comes before the answer to a request that has to wait for its turn.
        9 => Waiting(Waiting),
        /// Answers [`FsRequest`].
        32 => Fs(FsReply),
        /// Answers [`BranchCreate`].
        48 => BranchCreated(BranchCreated),
        /// Answers [`BranchList`].
        49 => Branches(Branches),
        /// Answers [`BranchDiff`] and its [`PageNext`].
        50 => Diff(Diff),
        /// Answers [`BranchApply`].
        51 => Applied(Applied),
        /// Answers [`BranchToken`].
        52 => TokenMade(TokenMade),
        /// Answers [`SnapshotCreate`].
        56 => SnapshotCreated(SnapshotCreated),
        /// Answers [`SnapshotList`].
        57 => Snapshots(Snapshots),
        /// Answers [`BranchExport`].
        60 => Exported(Exported),
        /// Answers [`MountList`].
        64 => Mounts(Mounts),
        /// Answers [`Status`].
        65 => StatusReport(StatusReport),
        /// Answers [`Shutdown`].
        66 => Ending(Ending),
        /// Answers [`Mount`] and [`MountServe`].
        67 => MountInfo(MountInfo),
        /// Answers [`WatchList`].
        71 => WatchesListed(WatchesListed),
        /// Answers [`Project`].
        72 => ProjectInfo(ProjectInfo),
        /// Answers [`Store`].
        73 => StoreReport(StoreReport),
    }
}
