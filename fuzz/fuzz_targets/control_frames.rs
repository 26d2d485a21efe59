//! Any bytes are read as messages of a program and of the daemon.
//!
//! What is no message gives a typed error. What is one is written as the same bytes again, so that
//! there is one way to say each thing and no bytes of a frame are passed over.
#![no_main]

use agentfs_proto::frame::{self, FrameReader, LENGTH_WORD};
use agentfs_proto::message::{FromDaemon, ToDaemon};
use agentfs_proto::ssz::Ssz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    check::<ToDaemon>(data);
    check::<FromDaemon>(data);
    // As a stream: in two pieces, as a socket may cut it.
    let mut reader = FrameReader::default();
    let (first, second) = data.split_at(data.len() / 2);
    for piece in [first, second] {
        reader.feed(piece);
        while let Ok(Some(message)) = reader.message() {
            check::<ToDaemon>(message);
        }
    }
});

fn check<T: Ssz + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = T::from_ssz(bytes) else {
        return;
    };
    assert_eq!(message.ssz_len(), bytes.len(), "{message:?}");
    let mut framed = Vec::new();
    if frame::append(&message, &mut framed).is_ok() {
        assert_eq!(&framed[LENGTH_WORD..], bytes, "{message:?}");
    }
}
