//! Checks that hostile peers harm only themselves.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use agentfs_proto::descriptor;
use agentfs_proto::frame::{self, MAX_FRAME};
use agentfs_proto::message::{
    BranchDiff, Done, EventsSubscribe, FromDaemon, FsOp, FsRequest, FsStat, Hello, Ping, QueueKind,
    QueueOpen, Reply, Request, Status, ToDaemon, WatchBatch, WatchList, WatchRegisterTree,
    WatchUnregister,
};
use agentfs_proto::ssz::Ssz as _;
use agentfs_testkit::daemon::{DaemonProcess, assert_answers};
use agentfs_testkit::random::Random;

fn frame_of(request: u64, body: impl Into<Request>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(
        &ToDaemon {
            request,
            body: body.into(),
        },
        &mut bytes,
    )
    .unwrap();
    bytes
}

fn plausible(random: &mut Random) -> Vec<u8> {
    let path = || b"/a/b".into();
    let queue = u32::try_from(random.below(4)).unwrap();
    let body: Request = match random.below(11) {
        0 => Hello::new("fuzz").into(),
        1 => Ping { nonce: 1 }.into(),
        2 => {
            let capacity = u32::try_from(random.below(1 << 18)).unwrap();
            QueueOpen {
                kind: QueueKind::Native,
                capacity,
            }
            .into()
        }
        3 => WatchRegisterTree {
            queue,
            watch: 1,
            path: path(),
            activity: true,
        }
        .into(),
        4 => WatchBatch {
            items: vec![WatchUnregister { queue, watch: 1 }.into(); 5],
        }
        .into(),
        5 => FsRequest {
            branch: String::new(),
            op: FsOp::Stat(FsStat {
                path: path(),
                follow: true,
            }),
        }
        .into(),
        6 => BranchDiff {
            name: "main".to_owned(),
            against: String::new(),
        }
        .into(),
        7 => EventsSubscribe {
            path: path(),
            activity: true,
        }
        .into(),
        9 => WatchList {
            session: random.next_u64() % 8,
            queue,
            after: u32::try_from(random.below(4)).unwrap(),
        }
        .into(),
        8 => Status {
            after: random.next_u64(),
        }
        .into(),
        _ => WatchUnregister {
            queue,
            watch: random.next_u64(),
        }
        .into(),
    };
    frame_of(random.next_u64(), body)
}

fn damaged(random: &mut Random) -> Vec<u8> {
    match random.below(6) {
        0 => (0..random.below(300))
            .map(|_| random.next_u64().to_le_bytes()[0])
            .collect(),
        1 => u32::MAX.to_le_bytes().to_vec(),
        2 => vec![0; 4],
        3 => {
            let len = u32::try_from(MAX_FRAME - 4).unwrap();
            let mut bytes = len.to_le_bytes().to_vec();
            bytes.resize(random.below(MAX_FRAME), 0xAA);
            bytes
        }
        _ => {
            let mut bytes = plausible(random);
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next_u64().to_le_bytes()[0];
            }
            bytes.truncate(random.below(bytes.len()).max(1));
            bytes
        }
    }
}

/// Sends the bytes and closes, or reads a while before closing. Whether the daemon hangs up is its
/// own affair.
fn misbehave(socket: &Path, seed: u64) {
    let random = &mut Random::new(seed);
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut sent = Vec::new();
    if random.below(4) > 0 {
        sent.extend(frame_of(1, Hello::new("fuzz")));
    }
    for _ in 0..random.below(20) {
        sent.extend(if random.below(8) == 0 {
            damaged(random)
        } else {
            plausible(random)
        });
    }
    let mut rest = sent.as_slice();
    while !rest.is_empty() {
        let piece = rest.len().min(1 + random.below(400));
        match stream.write(&rest[..piece]) {
            Ok(len) => rest = &rest[len..],
            Err(_) => return,
        }
        if random.below(3) == 0 {
            let mut answers = [0; 512];
            if !matches!(stream.read(&mut answers), Ok(1..)) {
                continue;
            }
        }
    }
}

#[test]
fn random_and_damaged_frames_end_their_own_session_only() {
    let daemon = DaemonProcess::start();
    let mut witness = daemon.client();
    let before = daemon.descriptors();
    for seed in 0..1500 {
        misbehave(&daemon.socket(), seed);
        if seed % 100 == 0 {
            assert_answers(&mut witness);
        }
    }
    settle(&daemon, &mut witness);
    assert!(
        daemon.descriptors() <= before,
        "{} > {before}",
        daemon.descriptors()
    );
}

/// Waits until only the witness is left, so that what the others had can be counted.
fn settle(daemon: &DaemonProcess, witness: &mut agentfs_client::Client) {
    let deadline = std::time::Instant::now() + agentfs_testkit::child::PATIENCE;
    while witness
        .call(Status { after: 0 }, agentfs_testkit::child::soon())
        .unwrap()
        .sessions
        .len()
        > 1
    {
        assert!(
            std::time::Instant::now() < deadline,
            "sessions of {} stay",
            daemon.pid()
        );
    }
    // Connections that were never greeted are no sessions; a session of a connection made after
    // them shows that they were looked at.
    assert_answers(&mut daemon.client());
    let count = |witness: &mut agentfs_client::Client| {
        let report = witness
            .call(Status { after: 0 }, agentfs_testkit::child::soon())
            .unwrap();
        let value = |name: &str| {
            report
                .counters
                .iter()
                .find(|it| it.name == name)
                .unwrap()
                .value
        };
        value("sessions_opened") - value("sessions_closed")
    };
    while count(witness) > 1 {
        assert!(
            std::time::Instant::now() < deadline,
            "connections of {} stay",
            daemon.pid()
        );
    }
}

#[test]
fn descriptors_that_nobody_asked_for_are_not_kept() {
    let daemon = DaemonProcess::start();
    let mut witness = daemon.client();
    let before = daemon.descriptors();
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    let file = tempfile::tempfile().unwrap();
    let hello = frame_of(1, Hello::new("giver"));
    let gifts = vec![file.as_fd(); descriptor::MAX_DESCRIPTORS];
    assert_eq!(
        descriptor::send(&stream, &hello, &gifts).unwrap(),
        hello.len()
    );
    for number in 2..50 {
        let ping = frame_of(number, Ping { nonce: number });
        assert_eq!(
            descriptor::send(&stream, &ping, &gifts).unwrap(),
            ping.len()
        );
    }
    let mut reader = frame::FrameReader::default();
    let mut last = 0;
    while last < 49 {
        let mut bytes = [0; 4096];
        let len = (&stream).read(&mut bytes).unwrap();
        assert!(len > 0);
        reader.feed(&bytes[..len]);
        while let Some(message) = reader.message().unwrap() {
            let message = FromDaemon::from_ssz(message).unwrap();
            last = message.request;
            assert!(matches!(
                message.body,
                Reply::Welcome(_) | Reply::Done(Done { .. })
            ));
        }
    }
    assert_answers(&mut witness);
    // The connection itself takes one descriptor.
    assert!(daemon.descriptors() <= before + 1);
}

#[test]
fn ten_thousand_connections_opened_and_dropped_cost_nobody_an_answer() {
    let daemon = DaemonProcess::start();
    let mut witness = daemon.client();
    let before = daemon.descriptors();
    for number in 0..10_000 {
        drop(UnixStream::connect(daemon.socket()).unwrap());
        if number % 500 == 0 {
            assert_answers(&mut witness);
        }
    }
    settle(&daemon, &mut witness);
    assert!(daemon.descriptors() <= before);
}
