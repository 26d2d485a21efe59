//! Has one sample of every answer.

use agentfs_proto::message::*;

use super::text;

/// Returns one of every reply, and of every answer of the filesystem.
pub fn replies() -> Vec<Reply> {
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
            version: 2,
            session: 4,
            branch: 1,
            branch_name: text("main"),
            daemon_pid: 77,
            instance: 0x0123_4567_89ab_cdef,
            max_queues: 1024,
            max_watches: 1 << 20,
        }
        .into(),
        Done { value: 5 }.into(),
        Waiting { ahead: 24 }.into(),
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
        WatchesListed {
            watches: vec![WatchInfo {
                watch: 1,
                interest: 0xFCE,
                node: 2,
                paths: vec![b"/src".into()],
            }],
            next: 1,
        }
        .into(),
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

fn project_info() -> ProjectInfo {
    ProjectInfo {
        lower: b"/home/u/project".into(),
        device: 41,
        inode: 1 << 40,
        place: ProjectPlace::Elsewhere,
        now_at: b"/home/u/moved".into(),
    }
}

fn store_report() -> StoreReport {
    StoreReport {
        path: b"/home/u/.local/state/agentfs/projects/p-1-2".into(),
        content: 1 << 33,
        free: 4096,
        log: 65_536,
        branches: 3,
        snapshots: 2,
        taken: 1 << 33,
        most: 1 << 34,
        warning: text("the store is nearly full"),
        failure: text("No space left on device"),
    }
}

fn branch_replies() -> Vec<Reply> {
    let branch = BranchInfo {
        id: 2,
        name: text("b"),
        parent: 1,
        seq: 77,
        created_ns: 5,
        run: 4711,
        frozen: true,
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
    vec![
        BranchCreated { id: 2 }.into(),
        exported().into(),
        Ending {
            lower: b"/home/me/project".into(),
            saved_count: 1,
            saved: vec![Saved {
                branch: text("attempt-1"),
                path: b"/home/me/.local/state/agentfs/changes/project/attempt-1".into(),
                exported: exported(),
            }],
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
        applied().into(),
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
        project_info().into(),
        store_report().into(),
    ]
}

fn applied() -> Applied {
    let step = ApplyStep {
        action: text("rename"),
        path: b"/a".into(),
        to: b"/b".into(),
    };
    Applied {
        step_count: 4,
        steps: vec![step],
        too_deep_count: 2,
        conflict_count: 1,
        conflicts: vec![b"/c".into()],
        is_complete: false,
        kept_count: 1,
        kept: vec![b"/d/k".into()],
    }
}

fn exported() -> Exported {
    Exported {
        changes: 3,
        bytes: 4096,
        unread_count: 1,
        unread: vec![Unread {
            path: b"/a".into(),
            why: text("stale"),
        }],
    }
}
