//! Queues and watches.

use crate::bytes::Bytes;
use crate::ssz::{container, numbered, union};

numbered! {
    /// What a program waits on. A number without a name is refused.
    pub enum QueueKind {
        /// A kqueue with `EVFILT_VNODE` knotes as XNU posts them.
        0 => KqueueXnu,
        /// A kqueue with `EVFILT_VNODE` knotes as FreeBSD posts them.
        1 => KqueueFreeBsd,
        /// An inotify instance.
        2 => Inotify,
        /// An FSEvents stream.
        3 => FsEvents,
        /// A native subscription.
        4 => Native,
    }
}

container! {
    /// Makes a queue and its channel.
    pub struct QueueOpen {
        /// What the program waits on.
        pub kind: QueueKind,
        /// Bytes of the ring, a power of two from 4 KiB to 1 GiB; 0 for the default.
        pub capacity: u32,
    }

    /// The queue is open. Three descriptors come along: the ring; the refill doorbell, an eventfd
    /// (elsewhere a pipe) that the program writes when a full ring has room again; and the doorbell
    /// that the daemon rings: for inotify the file to put the hidden watch on, otherwise the read
    /// end of a pipe.
    pub struct QueueOpened {
        /// The number of the queue in its session.
        pub queue: u32,
        /// Bytes of the ring.
        pub capacity: u32,
    }

    /// Ends a queue and all its watches.
    pub struct QueueClose {
        /// The queue.
        pub queue: u32,
    }

    /// An object by its path in the session's branch.
    pub struct ByPath {
        /// Absolute, as the branch shows it.
        pub path: Bytes,
        /// Whether a last component that is a symbolic link is followed.
        pub follow: bool,
    }

    /// An object by what `fstat` says of it on a mount.
    pub struct ByInode {
        /// The device of the mount.
        pub st_dev: u64,
        /// The node.
        pub st_ino: u64,
    }

    /// A knote of `EVFILT_VNODE`.
    pub struct WatchRegisterKqueue {
        /// The queue.
        pub queue: u32,
        /// The number by which records name the watch. The program chooses it; a number that is in
        /// use changes that watch.
        pub watch: u64,
        /// The descriptor that the program registered, for people.
        pub fd: u32,
        /// `NOTE_*` bits wanted.
        pub fflags: u32,
        /// The object.
        pub target: Target,
    }

    /// A watch of an inotify instance.
    pub struct WatchRegisterInotify {
        /// The queue.
        pub queue: u32,
        /// The watch descriptor, as the kernel or the program gave it. A number that is in use
        /// changes that watch.
        pub wd: u32,
        /// `IN_*` bits as given to `inotify_add_watch`, with `IN_ONESHOT`, `IN_EXCL_UNLINK` and
        /// `IN_MASK_ADD`.
        pub mask: u32,
        /// The object.
        pub target: Target,
    }

    /// The watch of an FSEvents stream.
    pub struct WatchRegisterFSEvents {
        /// The queue.
        pub queue: u32,
        /// The number by which records name the watch.
        pub watch: u64,
        /// The directories, absolute in the session's branch.
        pub paths: Vec<Bytes>,
        /// `kFSEventStreamCreateFlag*` bits.
        pub flags: u32,
        /// Nanoseconds in which events of one path become one. A daemon that does not serve that
        /// yet refuses what is not 0 as [`UNSUPPORTED`](super::Code::UNSUPPORTED).
        pub latency_ns: u64,
        /// The event id after which to start, or `u64::MAX` for the present. A daemon that does not
        /// serve that yet refuses any other id as [`UNSUPPORTED`](super::Code::UNSUPPORTED).
        pub since: u64,
    }

    /// A native watch of everything at and below a path.
    pub struct WatchRegisterTree {
        /// The queue.
        pub queue: u32,
        /// The number by which records name the watch.
        pub watch: u64,
        /// Absolute, in the session's branch. It need not exist.
        pub path: Bytes,
        /// Whether opening, reading and closing are reported too.
        pub activity: bool,
    }

    /// Many registrations and unregistrations at once, in order; each succeeds or fails by itself.
    pub struct WatchBatch {
        /// What to do.
        pub items: Vec<WatchItem>,
    }

    /// Answers [`WatchBatch`], item by item.
    pub struct WatchBatched {
        /// What became of each item.
        pub outcomes: Vec<WatchOutcome>,
    }

    /// What became of one item of a [`WatchBatch`].
    pub struct WatchOutcome {
        /// 0, or the [`Code`](super::Code) of the error.
        pub code: u32,
        /// As [`ErrorReply::errno`](super::ErrorReply::errno).
        pub errno: u32,
        /// The node that is watched now; 0 for a tree.
        pub node: u64,
    }

    /// The watch is registered: every change that is committed from now on is delivered.
    pub struct WatchRegistered {
        /// The node that is watched; 0 for a tree.
        pub node: u64,
    }

    /// Ends a watch. Records already in the ring stay. An inotify queue gets no `IN_IGNORED` from
    /// here: the program's own `inotify_rm_watch` makes the kernel send it.
    pub struct WatchUnregister {
        /// The queue.
        pub queue: u32,
        /// The watch.
        pub watch: u64,
    }

    /// Asks for a new doorbell of a queue, for a program that lost its own. The old one is no longer
    /// rung.
    pub struct WatchDoorbell {
        /// The queue.
        pub queue: u32,
    }

    /// The new doorbell comes along as a descriptor, as in [`QueueOpened`]. It is rung when a record
    /// is unread already.
    pub struct DoorbellGiven {
        /// The queue.
        pub queue: u32,
    }

    /// Makes the session's request channel: shared memory through which the program registers
    /// inotify watches without a round trip, see [`crate::registration`]. One for each session;
    /// another call gives a new one and ends the old.
    pub struct RequestChannelOpen {
        /// 0. For later versions.
        pub flags: u32,
    }

    /// The channel comes along as a descriptor. From now on the daemon looks into it before it
    /// routes any event and before it carries out any request of this session; a program that
    /// finds it full sends a [`Ping`](super::Ping).
    pub struct RequestChannelOpened {
        /// How many requests fit.
        pub slots: u32,
    }

    /// Reports which ident the shim uses for the `EVFILT_USER` knote it keeps in a kqueue. Only the
    /// daemon's status shows it.
    pub struct UpdateDoorbellIdent {
        /// The queue.
        pub queue: u32,
        /// The ident.
        pub ident: u64,
    }

    /// Asks for [`FsEventBroadcast`]s of everything at and below a path.
    pub struct EventsSubscribe {
        /// Absolute, in the session's branch.
        pub path: Bytes,
        /// Whether opening, reading and closing are reported too.
        pub activity: bool,
    }

    /// Ends a subscription.
    pub struct EventsUnsubscribe {
        /// What [`Done::value`](super::Done::value) answered to the subscription.
        pub subscription: u64,
    }

    /// A change, on the socket. Slower than a ring; for programs that cannot map one.
    pub struct FsEventBroadcast {
        /// The subscription.
        pub subscription: u64,
        /// The number of a [`Kind`](crate::record::Kind). `Overflow` says that events are lost
        /// because this session read too slowly.
        pub kind: u32,
        /// Bits of [`flags`](crate::record::flags).
        pub flags: u32,
        /// Commit order in the branch.
        pub seqno: u64,
        /// Nanoseconds since the epoch.
        pub ts_nanos: u64,
        /// The object.
        pub node: u64,
        /// The process that acted, or 0.
        pub pid: u64,
        /// The path.
        pub path: Bytes,
        /// The new path of a rename.
        pub aux: Bytes,
    }
}

union! {
    /// How a program names the object of a watch.
    pub enum Target {
        /// By path.
        0 => Path(ByPath),
        /// By device and inode.
        1 => Inode(ByInode),
    }
}

union! {
    /// One item of a [`WatchBatch`].
    pub enum WatchItem {
        /// A watch of a kqueue.
        0 => Kqueue(WatchRegisterKqueue),
        /// A watch of an inotify instance.
        1 => Inotify(WatchRegisterInotify),
        /// The end of a watch.
        2 => Unregister(WatchUnregister),
    }
}
