//! Has one sample of every message.

mod replies;

use agentfs_proto::message::*;

pub use self::replies::replies;

fn text(text: &str) -> String {
    text.to_owned()
}

/// Returns one of every request, and of every filesystem operation.
pub fn requests() -> Vec<Request> {
    let mut requests = session_requests();
    requests.extend(daemon_requests());
    requests.extend(fs_ops().into_iter().chain(fs_ops_on_names()).map(|op| {
        FsRequest {
            branch: text("agent-1"),
            op,
        }
        .into()
    }));
    requests.extend(branch_requests());
    requests
}

fn session_requests() -> Vec<Request> {
    let inode = ByInode {
        st_dev: 41,
        st_ino: 1 << 40,
    };
    let path = ByPath {
        path: b"/src/\xff.rs".into(),
        follow: true,
    };
    let kqueue = WatchRegisterKqueue {
        queue: 1,
        watch: 2,
        fd: 3,
        fflags: 0x7F,
        target: inode.clone().into(),
    };
    let inotify = WatchRegisterInotify {
        queue: 1,
        wd: 9,
        mask: 0x8000_0FFF,
        target: path.into(),
    };
    let unregister = WatchUnregister { queue: 1, watch: 2 };
    vec![
        Hello {
            token: Some(Token([7; 16])),
            ..Hello::new("vite")
        }
        .into(),
        Ping { nonce: 5 }.into(),
        QueueOpen {
            kind: QueueKind::KqueueFreeBsd,
            capacity: 65536,
        }
        .into(),
        QueueClose { queue: 1 }.into(),
        kqueue.clone().into(),
        inotify.clone().into(),
        WatchRegisterFSEvents {
            queue: 2,
            watch: 1,
            paths: vec![b"/a".into(), b"".into(), b"/b/c".into()],
            flags: 0x10,
            latency_ns: 1_000_000,
            since: u64::MAX,
        }
        .into(),
        WatchRegisterTree {
            queue: 3,
            watch: 1,
            path: b"/".into(),
            activity: true,
        }
        .into(),
        WatchBatch {
            items: vec![kqueue.into(), unregister.clone().into(), inotify.into()],
        }
        .into(),
        unregister.into(),
        WatchDoorbell { queue: 1 }.into(),
        RequestChannelOpen { flags: 0 }.into(),
        UpdateDoorbellIdent {
            queue: 1,
            ident: 0xAFFE_0000_1234_5678,
        }
        .into(),
        EventsSubscribe {
            path: b"/".into(),
            activity: false,
        }
        .into(),
        EventsUnsubscribe { subscription: 1 }.into(),
    ]
}

fn daemon_requests() -> Vec<Request> {
    vec![
        Status { after: 3 }.into(),
        Project { flags: 0 }.into(),
        Store {
            action: StoreAction::Limit,
            most: 1 << 34,
        }
        .into(),
        WatchList {
            session: 1,
            queue: 2,
            after: 3,
        }
        .into(),
        Shutdown {
            reason: text("upgrade"),
            discard: true,
        }
        .into(),
        MountList { after: 0 }.into(),
        Mount {
            branch: text("attempt-1"),
            path: b"/mnt/work".into(),
        }
        .into(),
        Unmount {
            path: b"/mnt/work".into(),
            detach: true,
        }
        .into(),
        MountServe {
            branch: text("attempt-1"),
            path: b"/home/me/project".into(),
            st_dev: 77,
            group: 1000,
        }
        .into(),
        MountWait {
            id: 3,
            timeout_ms: 1000,
        }
        .into(),
    ]
}

fn fs_ops() -> Vec<FsOp> {
    let path = || b"/dir/file".into();
    vec![
        FsStat {
            path: path(),
            follow: false,
        }
        .into(),
        FsReadDir {
            path: path(),
            after: 3,
        }
        .into(),
        FsReadLink { path: path() }.into(),
        FsOpen {
            path: path(),
            flags: 3,
            mode: 0o644,
        }
        .into(),
        FsClose { handle: 1 }.into(),
        FsRead {
            handle: 1,
            offset: 2,
            len: 3,
        }
        .into(),
        FsWrite {
            handle: 1,
            offset: 2,
            data: b"text \xff".into(),
        }
        .into(),
        FsTruncate {
            path: path(),
            size: 9,
        }
        .into(),
        FsMkdir {
            path: path(),
            mode: 0o755,
        }
        .into(),
        FsMknod {
            path: path(),
            mode: 0o10644,
            rdev: 0,
        }
        .into(),
    ]
}

fn fs_ops_on_names() -> Vec<FsOp> {
    let path = || b"/dir/file".into();
    vec![
        FsSymlink {
            path: path(),
            target: b"../x".into(),
        }
        .into(),
        FsLink {
            from: path(),
            to: b"/new".into(),
        }
        .into(),
        FsUnlink { path: path() }.into(),
        FsRmdir { path: path() }.into(),
        FsRename {
            from: path(),
            to: b"/new".into(),
            flags: 2,
        }
        .into(),
        FsChmod {
            path: path(),
            mode: 0o600,
        }
        .into(),
        FsChown {
            path: path(),
            uid: 1,
            gid: u32::MAX,
            follow: true,
        }
        .into(),
        FsUtimens {
            path: path(),
            atime_ns: Some(-1),
            mtime_ns: None,
            follow: true,
        }
        .into(),
        FsSetXattr {
            path: path(),
            name: b"user.a".into(),
            value: b"1".into(),
            flags: 0,
        }
        .into(),
        FsGetXattr {
            path: path(),
            name: b"user.a".into(),
        }
        .into(),
        FsListXattr { path: path() }.into(),
        FsRemoveXattr {
            path: path(),
            name: b"user.a".into(),
        }
        .into(),
    ]
}

fn branch_requests() -> Vec<Request> {
    vec![
        BranchCreate {
            name: text("b"),
            from_branch: text("main"),
            from_snapshot: text(""),
            frozen: true,
            max_size: 1 << 30,
            exclude: vec![text("target/"), text("*.log")],
        }
        .into(),
        BranchList { after: 2 }.into(),
        BranchDelete {
            name: text("b"),
            force: true,
        }
        .into(),
        BranchHold { name: text("b") }.into(),
        BranchDiff {
            name: text("b"),
            against: text(""),
        }
        .into(),
        BranchApply {
            name: text("b"),
            dry_run: true,
            force: false,
        }
        .into(),
        PageNext { page: 4 }.into(),
        BranchToken { name: text("b") }.into(),
        BranchRetire {
            name: text("b"),
            seq: 7,
        }
        .into(),
        BranchExport {
            name: text("b"),
            path: b"/home/me/changes".into(),
        }
        .into(),
        SnapshotCreate {
            name: text("s"),
            branch: text(""),
            full: true,
            exclude: vec![text("target/")],
        }
        .into(),
        SnapshotList { after: 0 }.into(),
        SnapshotRestore {
            snapshot: text("s"),
            branch: text("b"),
        }
        .into(),
        SnapshotDelete {
            snapshot: text("s"),
        }
        .into(),
    ]
}
