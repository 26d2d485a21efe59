//! The control messages.
//!
//! A program sends [`Request`]s, each with a number it chooses, and gets one [`Reply`] with that
//! number for each, in the order of the requests. Number 0 is for what was not asked for:
//! [`FsEventBroadcast`].
//!
//! Descriptors travel from the daemon to the program, because whoever gives a descriptor away
//! decides whether writing to it can block. [`FromDaemon::descriptors`] says how many come with a
//! frame. The one exception is [`MountServe`]: only the process that mounts can open its `/dev/fuse`.

mod branch;
mod fs;
mod project;
mod session;
mod status;
mod watch;

pub use self::branch::*;
pub use self::fs::*;
pub use self::project::*;
pub use self::session::*;
pub use self::status::*;
pub use self::watch::*;

use crate::ssz::{container, union};

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

union! {
    /// What a program asks of the daemon.
    pub enum Request {
        /// The first request of every connection.
        0 => Hello(Hello),
        /// Asks for a sign of life.
        1 => Ping(Ping),
        /// Makes a queue.
        2 => QueueOpen(QueueOpen),
        /// Ends a queue and its watches.
        3 => QueueClose(QueueClose),
        /// A watch of a kqueue.
        4 => WatchRegisterKqueue(WatchRegisterKqueue),
        /// A watch of an inotify instance.
        5 => WatchRegisterInotify(WatchRegisterInotify),
        /// The watch of an FSEvents stream.
        6 => WatchRegisterFSEvents(WatchRegisterFSEvents),
        /// A native watch of a tree.
        7 => WatchRegisterTree(WatchRegisterTree),
        /// Many registrations at once.
        8 => WatchBatch(WatchBatch),
        /// Ends a watch.
        9 => WatchUnregister(WatchUnregister),
        /// Asks for a new doorbell of a queue.
        10 => WatchDoorbell(WatchDoorbell),
        /// Tells the ident of a kqueue's reserved `EVFILT_USER` knote.
        11 => UpdateDoorbellIdent(UpdateDoorbellIdent),
        /// Asks for [`FsEventBroadcast`]s on this connection.
        12 => EventsSubscribe(EventsSubscribe),
        /// Ends [`FsEventBroadcast`]s.
        13 => EventsUnsubscribe(EventsUnsubscribe),
        /// Makes the session's request channel.
        14 => RequestChannelOpen(RequestChannelOpen),
        /// An operation of the filesystem.
        32 => Fs(FsRequest),
        /// Makes a branch.
        48 => BranchCreate(BranchCreate),
        /// Lists the branches.
        49 => BranchList(BranchList),
        /// Deletes a branch.
        50 => BranchDelete(BranchDelete),
        /// Compares a branch with what it came from.
        51 => BranchDiff(BranchDiff),
        /// Carries the changes of a branch over to the lower directory.
        52 => BranchApply(BranchApply),
        /// The next page of a [`BranchDiff`].
        53 => PageNext(PageNext),
        /// Makes the token that binds sessions to a branch.
        54 => BranchToken(BranchToken),
        /// Deletes a branch when it is no longer used.
        55 => BranchRetire(BranchRetire),
        /// Makes a snapshot.
        56 => SnapshotCreate(SnapshotCreate),
        /// Lists the snapshots.
        57 => SnapshotList(SnapshotList),
        /// Sets a branch back to a snapshot.
        58 => SnapshotRestore(SnapshotRestore),
        /// Deletes a snapshot.
        59 => SnapshotDelete(SnapshotDelete),
        /// Writes what a branch changed to a directory.
        60 => BranchExport(BranchExport),
        /// Keeps a branch as one at work while the session lasts.
        61 => BranchHold(BranchHold),
        /// Lists the mounts.
        64 => MountList(MountList),
        /// Sessions, queues and counters.
        65 => Status(Status),
        /// Ends the daemon.
        66 => Shutdown(Shutdown),
        /// Mounts a branch.
        67 => Mount(Mount),
        /// Takes a mount away.
        68 => Unmount(Unmount),
        /// Shows a branch in a mount of the program's own; descriptor: its `/dev/fuse`.
        69 => MountServe(MountServe),
        /// Waits for the end of a mount.
        70 => MountWait(MountWait),
        /// What a queue watches.
        71 => WatchList(WatchList),
        /// Which directory is below the branches.
        72 => Project(Project),
    }
}

union! {
    /// What the daemon says.
    pub enum Reply {
        /// The request was refused; nothing was changed.
        0 => Error(ErrorReply),
        /// Answers [`Hello`].
        1 => Welcome(Welcome),
        /// The request was carried out and there is nothing to tell.
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
    }
}

/// A request with the type of its answer.
pub trait Call: Into<Request> {
    /// What [`Reply`] holds when the request was carried out.
    type Answer: TryFrom<Reply, Error = Reply>;
}

macro_rules! calls {
    ($( $request:ident => $answer:ident, )+) => {$(
        impl Call for $request {
            type Answer = $answer;
        }
    )+};
}

macro_rules! answers {
    ($( $variant:ident($answer:ident), )+) => {$(
        impl TryFrom<Reply> for $answer {
            type Error = Reply;

            fn try_from(reply: Reply) -> Result<Self, Reply> {
                if let Reply::$variant(answer) = reply { Ok(answer) } else { Err(reply) }
            }
        }
    )+};
}

calls! {
    Hello => Welcome,
    Ping => Done,
    QueueOpen => QueueOpened,
    QueueClose => Done,
    WatchRegisterKqueue => WatchRegistered,
    WatchRegisterInotify => WatchRegistered,
    WatchRegisterFSEvents => WatchRegistered,
    WatchRegisterTree => WatchRegistered,
    WatchBatch => WatchBatched,
    WatchUnregister => Done,
    WatchDoorbell => DoorbellGiven,
    UpdateDoorbellIdent => Done,
    EventsSubscribe => Done,
    EventsUnsubscribe => Done,
    RequestChannelOpen => RequestChannelOpened,
    FsRequest => FsReply,
    BranchCreate => BranchCreated,
    BranchList => Branches,
    BranchDelete => Done,
    BranchDiff => Diff,
    PageNext => Diff,
    BranchApply => Applied,
    BranchToken => TokenMade,
    BranchRetire => Done,
    BranchExport => Exported,
    BranchHold => Done,
    SnapshotCreate => SnapshotCreated,
    SnapshotList => Snapshots,
    SnapshotRestore => Done,
    SnapshotDelete => Done,
    MountList => Mounts,
    Status => StatusReport,
    Shutdown => Ending,
    Mount => MountInfo,
    Unmount => Done,
    MountServe => MountInfo,
    MountWait => Done,
    WatchList => WatchesListed,
    Project => ProjectInfo,
}

answers! {
    Welcome(Welcome),
    Done(Done),
    QueueOpened(QueueOpened),
    WatchBatched(WatchBatched),
    WatchRegistered(WatchRegistered),
    DoorbellGiven(DoorbellGiven),
    RequestChannelOpened(RequestChannelOpened),
    Fs(FsReply),
    BranchCreated(BranchCreated),
    Branches(Branches),
    Diff(Diff),
    Applied(Applied),
    TokenMade(TokenMade),
    Exported(Exported),
    SnapshotCreated(SnapshotCreated),
    Snapshots(Snapshots),
    Mounts(Mounts),
    StatusReport(StatusReport),
    Ending(Ending),
    MountInfo(MountInfo),
    WatchesListed(WatchesListed),
    ProjectInfo(ProjectInfo),
}
