//! One of every message.

use agentfs_proto::message::*;

fn text(text: &str) -> String {
    text.to_owned()
}

/// One of every request, and of every filesystem operation.
pub(crate) fn requests() -> Vec<Request> {
    let mut requests = session_requests();
    requests.extend(mount_requests());
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
        Status { after: 3 }.into(),
        Shutdown {
            reason: text("upgrade"),
        }
        .into(),
    ]
}

fn mount_requests() -> Vec<Request> {
    vec![
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
        }
        .into(),
        BranchList { after: 2 }.into(),
        BranchDelete { name: text("b") }.into(),
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
        BranchRetire { name: text("b") }.into(),
        BranchExport {
            name: text("b"),
            path: b"/home/me/changes".into(),
        }
        .into(),
        SnapshotCreate {
            name: text("s"),
            branch: text(""),
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

/// One of every reply, and of every answer of the filesystem.
pub(crate) fn replies() -> Vec<Reply> {
    let mut replies = session_replies();
    replies.extend(fs_replies().into_iter().map(Reply::Fs));
    replies.extend(branch_replies());
    replies
}

fn session_replies() -> Vec<Reply> {
    vec![
        ErrorReply {
            code: Code::NOT_FOUND,
            errno: 2,
            message: text("no such file: /a"),
        }
        .into(),
        Welcome {
            version: 1,
            session: 4,
            branch: 1,
            branch_name: text("main"),
            daemon_pid: 77,
            instance: 0x0123_4567_89ab_cdef,
            max_queues: 1024,
            max_watches: 1 << 20,
            counters: text("agentfs-77"),
        }
        .into(),
        Done { value: 5 }.into(),
        QueueOpened {
            queue: 1,
            capacity: 65536,
        }
        .into(),
        WatchBatched {
            outcomes: vec![
                WatchOutcome {
                    code: 0,
                    errno: 0,
                    node: 12,
                },
                WatchOutcome {
                    code: 5,
                    errno: 2,
                    node: 0,
                },
            ],
        }
        .into(),
        WatchRegistered { node: 12 }.into(),
        DoorbellGiven { queue: 1 }.into(),
        RequestChannelOpened { slots: 4096 }.into(),
        FsEventBroadcast {
            subscription: 1,
            kind: 3,
            flags: 1,
            seqno: 99,
            ts_nanos: 1,
            node: 2,
            pid: 3,
            path: b"/old".into(),
            aux: b"/new".into(),
        }
        .into(),
    ]
}

fn attr() -> Attr {
    Attr {
        ino: 3,
        mode: 0o100_644,
        nlink: 1,
        uid: 1000,
        gid: 1000,
        size: 1 << 33,
        rdev: 0,
        atime_ns: -5,
        mtime_ns: i64::MAX,
        ctime_ns: 0,
    }
}

fn fs_replies() -> Vec<FsReply> {
    let entry = |name: &[u8], cookie| Entry {
        name: name.into(),
        cookie,
        attr: attr(),
    };
    vec![
        FsDone { ino: 3 }.into(),
        attr().into(),
        FsEntries {
            entries: vec![entry(b"a", 1), entry(b"\xff\xfe", 2)],
            more: true,
        }
        .into(),
        FsLinkTarget {
            target: b"../a".into(),
        }
        .into(),
        FsOpened {
            handle: 1,
            attr: attr(),
        }
        .into(),
        FsData {
            data: b"\0\x01\xff".into(),
        }
        .into(),
        FsWritten { len: 3 }.into(),
        FsXattr { value: b"".into() }.into(),
        FsXattrs {
            names: vec![b"user.a".into(), b"user.b".into()],
        }
        .into(),
    ]
}

fn status_report() -> StatusReport {
    let queue = QueueStatus {
        queue: 1,
        kind: QueueKind::Native,
        watches: 2,
        ring_capacity: 65536,
        ring_unread: 128,
        spilled: 0,
        healing: false,
        doorbell_ident: 0,
    };
    let session = SessionStatus {
        session: 1,
        pid: 99,
        program: text("vite"),
        branch: 1,
        bound: true,
        handles: 0,
        requests: 4,
        queues: vec![queue],
    };
    StatusReport {
        pid: 1,
        version: text("0.1.0"),
        lower: b"/home/u/project".into(),
        uptime_s: 3,
        counters: vec![Counter {
            name: text("events"),
            value: 9,
        }],
        sessions: vec![session],
        more: false,
    }
}

fn branch_replies() -> Vec<Reply> {
    let branch = BranchInfo {
        id: 2,
        name: text("b"),
        parent: 1,
        seq: 77,
        created_ns: 5,
    };
    let snapshot = SnapshotInfo {
        id: 3,
        name: text(""),
        branch: 1,
        created_ns: 5,
    };
    let mount = MountInfo {
        id: 1,
        branch: 2,
        branch_name: text("b"),
        st_dev: 41,
        path: b"/home/u/project".into(),
    };
    let diff = |kind| DiffEntry {
        kind,
        mode: 0o100_644,
        size: 10,
        path: b"/a".into(),
        from: b"".into(),
    };
    let step = ApplyStep {
        action: text("rename"),
        path: b"/a".into(),
        to: b"/b".into(),
    };
    vec![
        BranchCreated { id: 2 }.into(),
        Exported {
            changes: 3,
            bytes: 4096,
        }
        .into(),
        Branches {
            branches: vec![branch],
            more: false,
        }
        .into(),
        Diff {
            entries: vec![diff(DiffKind::Added), diff(DiffKind::Renamed)],
            next: 7,
        }
        .into(),
        Applied {
            step_count: 4,
            steps: vec![step],
            conflict_count: 1,
            conflicts: vec![b"/c".into()],
        }
        .into(),
        TokenMade {
            token: Token([0xAB; 16]),
        }
        .into(),
        SnapshotCreated { id: 3 }.into(),
        Snapshots {
            snapshots: vec![snapshot],
            more: false,
        }
        .into(),
        Mounts {
            mounts: vec![mount.clone()],
            more: false,
        }
        .into(),
        mount.into(),
        status_report().into(),
    ]
}
