use agentfs_proto::frame::{self, FrameError, FrameReader, LENGTH_WORD, MAX_FRAME};
use agentfs_proto::message::{
    ByInode, FromDaemon, FsOp, FsRequest, FsWrite, MAX_DATA, Ping, Request, ToDaemon, Token,
    WatchBatch, WatchRegisterInotify,
};
use agentfs_proto::ssz::Ssz;
use agentfs_testkit::samples::{replies, requests};
use proptest::prelude::*;

fn frame_of(request: Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(
        &ToDaemon {
            request: 1,
            body: request,
        },
        &mut bytes,
    )
    .unwrap();
    bytes
}

#[test]
fn every_request_and_reply_survives_the_wire() {
    for (request, body) in (1..).zip(requests()) {
        let message = ToDaemon { request, body };
        let mut bytes = Vec::new();
        frame::append(&message, &mut bytes).unwrap();
        assert_eq!(ToDaemon::from_ssz(&bytes[LENGTH_WORD..]), Ok(message));
    }
    for (request, body) in (1..).zip(replies()) {
        let message = FromDaemon {
            request,
            descriptors: 3,
            body,
        };
        let mut bytes = Vec::new();
        frame::append(&message, &mut bytes).unwrap();
        assert_eq!(FromDaemon::from_ssz(&bytes[LENGTH_WORD..]), Ok(message));
    }
}

#[test]
#[cfg(feature = "json")]
fn every_request_and_reply_survives_json() {
    for request in requests() {
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(
            serde_json::from_str::<Request>(&text).unwrap(),
            request,
            "{text}"
        );
    }
    for reply in replies() {
        let text = serde_json::to_string(&reply).unwrap();
        let read: agentfs_proto::message::Reply = serde_json::from_str(&text).unwrap();
        assert_eq!(read, reply, "{text}");
    }
}

#[test]
fn the_samples_have_every_variant() {
    let selectors = |bodies: Vec<Vec<u8>>| -> Vec<u8> {
        let mut seen: Vec<u8> = bodies.iter().map(|body| body[0]).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let encode = |value: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        value(&mut bytes);
        bytes
    };
    let sent = selectors(
        requests()
            .iter()
            .map(|it| encode(&|out| it.ssz_append(out)))
            .collect(),
    );
    let known: Vec<u8> = (0..=255)
        .filter(|selector| Request::from_ssz(&[*selector]) != unknown(*selector))
        .collect();
    assert_eq!(sent, known);
    let said = selectors(
        replies()
            .iter()
            .map(|it| encode(&|out| it.ssz_append(out)))
            .collect(),
    );
    let known: Vec<u8> = (0..=255)
        .filter(|selector| {
            agentfs_proto::message::Reply::from_ssz(&[*selector]) != unknown(*selector)
        })
        .collect();
    assert_eq!(said, known);
}

fn unknown<T>(selector: u8) -> Result<T, agentfs_proto::ssz::SszError> {
    Err(agentfs_proto::ssz::SszError::Selector(selector))
}

#[test]
fn the_greeting_is_byte_for_byte_what_version_2_says() {
    let hello = agentfs_proto::message::Hello {
        token: Some(Token([0xAB; 16])),
        branch: "b".to_owned(),
        ..agentfs_proto::message::Hello::new("vi")
    };
    let hex: String = frame_of(hello.into())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected = [
        "35000000",                           // 53 bytes follow
        "0100000000000000",                   // request 1
        "0c000000",                           // the body starts at 12
        "00",                                 // Hello
        "02000000",                           // lowest version
        "02000000",                           // highest version
        "14000000",                           // program starts at 20
        "16000000",                           // token starts at 22
        "27000000",                           // branch starts at 39
        "7669",                               // vi
        "01abababababababababababababababab", // a token
        "62",                                 // b
    ];
    assert_eq!(hex, expected.concat());
}

#[test]
fn a_frame_has_at_most_64_kib() {
    let write = |len: usize| {
        let data = vec![7; len].as_slice().into();
        Request::from(FsRequest {
            branch: String::new(),
            op: FsOp::Write(FsWrite {
                handle: 1,
                offset: 0,
                data,
            }),
        })
    };
    assert!(frame_of(write(MAX_DATA)).len() <= MAX_FRAME);
    let mut bytes = vec![1, 2, 3];
    let refused = frame::append(
        &ToDaemon {
            request: 1,
            body: write(MAX_FRAME),
        },
        &mut bytes,
    );
    assert!(matches!(refused, Err(FrameError::TooLong { len }) if len > MAX_FRAME));
    assert_eq!(bytes, [1, 2, 3]);
    let word = u32::try_from(MAX_FRAME - LENGTH_WORD).unwrap();
    assert_eq!(frame::frame_len(word.to_le_bytes()), Ok(MAX_FRAME));
    let longer = frame::frame_len((word + 1).to_le_bytes());
    assert_eq!(longer, Err(FrameError::TooLong { len: MAX_FRAME + 1 }));
    assert_eq!(frame::frame_len([0; 4]), Err(FrameError::Empty));
}

#[test]
fn a_frame_holds_more_than_a_thousand_registrations() {
    let item = WatchRegisterInotify {
        queue: 1,
        wd: 1,
        mask: 0xFFF,
        target: ByInode {
            st_dev: 1,
            st_ino: 1,
        }
        .into(),
    };
    let batch = WatchBatch {
        items: vec![item.into(); 1200],
    };
    assert!(frame_of(batch.into()).len() <= MAX_FRAME);
}

#[test]
fn a_token_keeps_its_digits_but_no_log_has_them() {
    let token = Token(*b"0123456789abcdef");
    assert_eq!(Token::from_hex(&token.to_string()), Some(token));
    assert_eq!(format!("{token:?}"), "Token(..)");
    assert_eq!(Token::from_hex("30"), None);
    assert_eq!(Token::from_hex(&"+1".repeat(16)), None);
}

proptest! {
    #[test]
    fn random_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = ToDaemon::from_ssz(&bytes) {
            let mut again = Vec::new();
            message.ssz_append(&mut again);
            prop_assert_eq!(&again, &bytes);
        }
        if let Ok(message) = FromDaemon::from_ssz(&bytes) {
            let mut again = Vec::new();
            message.ssz_append(&mut again);
            prop_assert_eq!(&again, &bytes);
        }
    }

    /// Every message has one encoding, so bytes that decode are encoded to the same bytes.
    #[test]
    fn mutated_messages_decode_to_what_they_say_or_to_an_error(
        which in any::<prop::sample::Index>(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let mut messages: Vec<Vec<u8>> = Vec::new();
        for body in requests() {
            let mut bytes = Vec::new();
            ToDaemon { request: 1, body }.ssz_append(&mut bytes);
            messages.push(bytes);
        }
        let mut bytes = messages.swap_remove(which.index(messages.len()));
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Ok(message) = ToDaemon::from_ssz(&bytes) {
            let mut again = Vec::new();
            message.ssz_append(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_stream_cut_anywhere_gives_the_same_messages(
        nonces in prop::collection::vec(any::<u64>(), 0..40),
        cuts in prop::collection::vec(1usize..50, 1..100),
    ) {
        let mut stream = Vec::new();
        for nonce in &nonces {
            frame::append(&ToDaemon { request: 1, body: Ping { nonce: *nonce }.into() }, &mut stream)
                .unwrap();
        }
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        let mut rest = stream.as_slice();
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = after;
            reader.feed(piece);
            while let Some(message) = reader.message().unwrap() {
                let body = ToDaemon::from_ssz(message).unwrap().body;
                let Request::Ping(ping) = body else { panic!("{body:?}") };
                read.push(ping.nonce);
            }
        }
        prop_assert_eq!(read, nonces);
        prop_assert_eq!(reader.pending(), 0);
    }
}
