//! Tests the client against a peer that the test plays.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agentfs_client::{CallError, Client, ConnectError, Deadline};
use agentfs_proto::descriptor;
use agentfs_proto::frame::{self, LENGTH_WORD};
use agentfs_proto::message::{
    Code, Done, DoorbellGiven, ErrorReply, FromDaemon, Hello, Ping, Reply, Request, ToDaemon,
    WatchDoorbell,
};
use agentfs_proto::ssz::Ssz as _;

fn pair() -> (Client, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Client::over(OwnedFd::from(ours)), theirs)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn at_once() -> Deadline {
    Deadline::after(Duration::ZERO)
}

fn read_request(peer: &mut UnixStream) -> ToDaemon {
    let mut word = [0; LENGTH_WORD];
    peer.read_exact(&mut word).unwrap();
    let mut body = vec![0; frame::frame_len(word).unwrap() - LENGTH_WORD];
    peer.read_exact(&mut body).unwrap();
    ToDaemon::from_ssz(&body).unwrap()
}

fn frame_of(request: u64, descriptors: u8, body: impl Into<Reply>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(
        &FromDaemon {
            request,
            descriptors,
            body: body.into(),
        },
        &mut bytes,
    )
    .unwrap();
    bytes
}

/// Returns how many open descriptors of this process name `object`.
fn count_open(object: &OwnedFd) -> usize {
    let wanted = rustix::fs::fstat(object).unwrap();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok())
        .filter(|found| {
            use std::os::unix::fs::MetadataExt as _;
            (found.dev(), found.ino()) == (wanted.st_dev, wanted.st_ino)
        })
        .count()
}

fn some_file() -> OwnedFd {
    tempfile::tempfile().unwrap().into()
}

#[test]
fn answers_are_matched_by_number() {
    let (mut client, mut peer) = pair();
    let first = client.send(Ping { nonce: 1 }.into(), soon()).unwrap();
    let second = client.send(Ping { nonce: 2 }.into(), soon()).unwrap();
    assert_eq!((first, second), (1, 2));
    for _ in 0..2 {
        let request = read_request(&mut peer);
        let Request::Ping(ping) = request.body else {
            panic!("{request:?}")
        };
        peer.write_all(&frame_of(request.request, 0, Done { value: ping.nonce }))
            .unwrap();
    }
    peer.write_all(&frame_of(3, 0, Done { value: 30 })).unwrap();
    assert_eq!(client.call(Ping { nonce: 3 }, soon()).unwrap().value, 30);
}

#[test]
fn a_refusal_is_an_error_with_its_text() {
    let (mut client, mut peer) = pair();
    let error = ErrorReply {
        code: Code::LIMIT,
        errno: 0,
        message: "too many".to_owned(),
    };
    peer.write_all(&frame_of(1, 0, error.clone())).unwrap();
    match client.call(Ping { nonce: 0 }, soon()) {
        Err(CallError::Refused(refused)) => assert_eq!(refused, error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_of_another_kind_is_an_error() {
    let (mut client, mut peer) = pair();
    peer.write_all(&frame_of(1, 0, DoorbellGiven { queue: 1 }))
        .unwrap();
    let answer = client.call(Ping { nonce: 0 }, soon());
    assert!(
        matches!(answer, Err(CallError::Unexpected("DoorbellGiven"))),
        "{answer:?}"
    );
}

#[test]
fn a_frame_that_comes_in_pieces_survives_timeouts() {
    let (mut client, mut peer) = pair();
    let (head, tail) = (
        frame_of(1, 0, Done { value: 7 }),
        frame_of(2, 0, Done { value: 8 }),
    );
    client.send(Ping { nonce: 0 }.into(), soon()).unwrap();
    for byte in &head {
        let waiting = client.receive(at_once());
        assert!(matches!(waiting, Err(CallError::Timeout)), "{waiting:?}");
        peer.write_all(&[*byte]).unwrap();
    }
    peer.write_all(&tail).unwrap();
    assert!(matches!(
        client.receive(soon()).unwrap().reply,
        Reply::Done(Done { value: 7 })
    ));
    assert!(matches!(
        client.receive(soon()).unwrap().reply,
        Reply::Done(Done { value: 8 })
    ));
}

#[test]
fn a_peer_that_reads_nothing_costs_no_more_than_the_deadline() {
    let (mut client, mut peer) = pair();
    let mut sent = 0;
    let stuck = loop {
        match client.send(Ping { nonce: 0 }.into(), at_once()) {
            Ok(number) => sent = number,
            Err(error) => break error,
        }
    };
    assert!(matches!(stuck, CallError::Timeout), "{stuck:?}");
    for number in 1..=sent + 1 {
        if number == sent {
            client.send(Ping { nonce: 9 }.into(), soon()).unwrap();
        }
        assert_eq!(read_request(&mut peer).request, number);
    }
}

#[test]
fn the_end_of_the_daemon_is_told() {
    let (mut client, peer) = pair();
    drop(peer);
    assert!(matches!(
        client.call(Ping { nonce: 0 }, soon()),
        Err(CallError::Closed)
    ));
}

#[test]
fn descriptors_come_with_their_frame() {
    let (mut client, mut peer) = pair();
    let file = some_file();
    peer.write_all(&frame_of(9, 0, Done { value: 0 })).unwrap();
    let frame = frame_of(1, 2, DoorbellGiven { queue: 4 });
    let sent = descriptor::send(&peer, &frame, &[file.as_fd(), file.as_fd()]).unwrap();
    assert_eq!(sent, frame.len());
    let (answer, descriptors) = client
        .call_for_descriptors(WatchDoorbell { queue: 4 }, soon())
        .unwrap();
    assert_eq!(answer.queue, 4);
    assert_eq!(descriptors.len(), 2);
    assert_eq!(count_open(&file), 3);
    for descriptor in &descriptors {
        let flags = rustix::io::fcntl_getfd(descriptor).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
    drop(descriptors);
    assert_eq!(count_open(&file), 1);
}

#[test]
fn descriptors_that_were_not_announced_are_closed() {
    let file = some_file();
    for (announced, sent) in [(0, 1), (2, 1), (1, 2), (1, 0)] {
        let (mut client, peer) = pair();
        let frame = frame_of(1, announced, Done { value: 0 });
        descriptor::send(&peer, &frame, &vec![file.as_fd(); sent]).unwrap();
        let answer = client.call(Ping { nonce: 0 }, soon());
        match answer {
            Err(CallError::Descriptors { expected, found }) => {
                assert_eq!((expected, found), (usize::from(announced), sent));
            }
            other => panic!("{other:?}"),
        }
        drop(peer);
        assert_eq!(count_open(&file), 1);
    }
}

#[test]
fn descriptors_in_the_middle_of_a_frame_are_closed() {
    let file = some_file();
    let (mut client, peer) = pair();
    let frame = frame_of(1, 0, Done { value: 0 });
    descriptor::send(&peer, &frame[..6], &[]).unwrap();
    descriptor::send(&peer, &frame[6..], &[file.as_fd()]).unwrap();
    let answer = client.call(Ping { nonce: 0 }, soon());
    assert!(
        matches!(
            answer,
            Err(CallError::Descriptors {
                expected: 0,
                found: 1
            })
        ),
        "{answer:?}"
    );
    assert_eq!(count_open(&file), 1);
}

#[test]
fn more_descriptors_than_a_frame_may_have_are_closed() {
    let file = some_file();
    let (mut client, peer) = pair();
    let frame = frame_of(1, 8, Done { value: 0 });
    let many = vec![file.as_fd(); 20];
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&many)));
    let flags = rustix::net::SendFlags::empty();
    let iov = [std::io::IoSlice::new(&frame)];
    rustix::net::sendmsg(&peer, &iov, &mut control, flags).unwrap();
    let answer = client.call(Ping { nonce: 0 }, soon());
    assert!(
        matches!(answer, Err(CallError::Descriptors { expected: 8, .. })),
        "{answer:?}"
    );
    assert_eq!(count_open(&file), 1);
}

#[test]
fn a_client_that_ends_closes_what_it_has_received() {
    let file = some_file();
    let (mut client, peer) = pair();
    let frame = frame_of(1, 1, Done { value: 0 });
    descriptor::send(&peer, &frame[..6], &[file.as_fd()]).unwrap();
    assert!(matches!(client.receive(at_once()), Err(CallError::Timeout)));
    assert_eq!(count_open(&file), 2);
    drop(client);
    assert_eq!(count_open(&file), 1);
}

#[test]
fn nobody_at_the_path_is_told_with_the_way_out() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("none.sock");
    let refused = Client::connect(&path, Hello::new("test"), soon()).unwrap_err();
    assert!(matches!(refused, ConnectError::NoDaemon(_)));
    assert!(refused.to_string().contains("agentfs daemon"), "{refused}");
}

#[test]
fn a_daemon_that_accepts_nothing_costs_no_more_than_the_deadline() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("stopped.sock");
    let listener = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut refused = Vec::new();
    for _ in 0..3 {
        let wait = Deadline::after(Duration::from_millis(50));
        refused.push(Client::connect(&path, Hello::new("test"), wait).unwrap_err());
    }
    let last = refused.pop().unwrap();
    assert!(matches!(last, ConnectError::Busy(_)), "{last}");
}
