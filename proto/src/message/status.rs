//! What the daemon says of itself.

use super::branch::Saved;
use super::watch::QueueKind;
use crate::bytes::Bytes;
use crate::ssz::container;

container! {
    /// Lists the mounts, those numbered higher than `after`.
    pub struct MountList {
        /// The number of the last mount read, or 0 for the first page.
        pub after: u64,
    }

    /// One mount of a branch.
    pub struct MountInfo {
        /// Its number.
        pub id: u64,
        /// Its branch.
        pub branch: u64,
        /// The branch's name.
        pub branch_name: String,
        /// Its device, as `st_dev`.
        pub st_dev: u64,
        /// Where it was mounted, in the mount namespace of the process that mounted it.
        pub path: Bytes,
    }

    /// A page of the mount table. A bound session sees the mounts of its branch.
    pub struct Mounts {
        /// The mounts, by number.
        pub mounts: Vec<MountInfo>,
        /// Whether there are more.
        pub more: bool,
    }

    /// Mounts a branch on a directory of the daemon's mount namespace.
    pub struct Mount {
        /// The branch; empty for the session's.
        pub branch: String,
        /// The directory, absolute.
        pub path: Bytes,
    }

    /// Takes a mount away.
    pub struct Unmount {
        /// Where it is, absolute.
        pub path: Bytes,
        /// Also when it is in use: what uses it goes on, without a name.
        pub detach: bool,
    }

    /// Shows a branch in a mount that the program made in its own mount namespace. With the first byte
    /// comes the `/dev/fuse` that the program opened for it.
    pub struct MountServe {
        /// The branch; empty for the session's.
        pub branch: String,
        /// Where it is in that namespace, absolute.
        pub path: Bytes,
        /// Its device, as `st_dev`.
        pub st_dev: u64,
        /// The one group that its user namespace knows; `u32::MAX` when it knows all.
        pub group: u32,
    }

    /// Waits until a mount has ended, by whomever. The value of [`Done`](super::Done) is 1 when it
    /// has, 0 when it still is there.
    pub struct MountWait {
        /// Its number.
        pub id: u64,
        /// How long, at most.
        pub timeout_ms: u32,
    }

    /// Asks for sessions, queues and counters.
    pub struct Status {
        /// Only sessions numbered higher: the last one of the page before, or 0.
        pub after: u64,
    }

    /// A number that only grows, or a fill level.
    pub struct Counter {
        /// Its name.
        pub name: String,
        /// Its value.
        pub value: u64,
    }

    /// One queue.
    pub struct QueueStatus {
        /// Its number in the session.
        pub queue: u32,
        /// What the program waits on.
        pub kind: QueueKind,
        /// Watches it has.
        pub watches: u32,
        /// Bytes of the ring.
        pub ring_capacity: u32,
        /// Bytes written and not yet read.
        pub ring_unread: u32,
        /// Records that wait because the ring is full.
        pub spilled: u32,
        /// Whether the difference will be delivered instead of events.
        pub healing: bool,
        /// The ident of the reserved knote, or 0.
        pub doorbell_ident: u64,
    }

    /// One session.
    pub struct SessionStatus {
        /// Its number.
        pub session: u64,
        /// Its process.
        pub pid: u32,
        /// What the program calls itself.
        pub program: String,
        /// Its branch.
        pub branch: u64,
        /// Whether a token binds it to the branch.
        pub bound: bool,
        /// Files it has open by request.
        pub handles: u32,
        /// Requests it made.
        pub requests: u64,
        /// Its queues; at most the first 64.
        pub queues: Vec<QueueStatus>,
    }

    /// What the daemon says of itself.
    pub struct StatusReport {
        /// Its process.
        pub pid: u32,
        /// Its version.
        pub version: String,
        /// The directory below the branches; empty when there is none.
        pub lower: Bytes,
        /// Seconds since it started.
        pub uptime_s: u64,
        /// The counters.
        pub counters: Vec<Counter>,
        /// The sessions, by number. A bound session sees itself.
        pub sessions: Vec<SessionStatus>,
        /// Whether there are more.
        pub more: bool,
    }

    /// Asks what a queue watches, page by page; an empty page is the end.
    pub struct WatchList {
        /// The session.
        pub session: u64,
        /// The queue in it.
        pub queue: u32,
        /// [`WatchesListed::next`] of the page before, or 0.
        pub after: u32,
    }

    /// One watch.
    pub struct WatchInfo {
        /// The number by which records name it: of inotify the wd.
        pub watch: u64,
        /// `IN_*` or `NOTE_*` bits wanted; 0 for a tree.
        pub interest: u32,
        /// The node; 0 for a tree.
        pub node: u64,
        /// Where the node is now in the branch (of a hard-linked file one of its paths), none when
        /// it has no name; of a tree the paths that were asked for, as many as fit.
        pub paths: Vec<Bytes>,
    }

    /// A page of the watches of a queue.
    pub struct WatchesListed {
        /// The watches.
        pub watches: Vec<WatchInfo>,
        /// Where to go on.
        pub next: u32,
    }

    /// Ends the daemon. What its branches changed is exported first, and when that cannot be done
    /// the daemon does not end.
    pub struct Shutdown {
        /// Why, for the log.
        pub reason: String,
        /// Throw the changes of all branches away instead.
        pub discard: bool,
    }

    /// The daemon ends now.
    pub struct Ending {
        /// The directory below the branches; empty when there is none.
        pub lower: Bytes,
        /// How many branches were exported.
        pub saved_count: u64,
        /// The first of them.
        pub saved: Vec<Saved>,
    }
}
