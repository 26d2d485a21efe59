use agentfs_proto::record::{
    AgentFsEvent, EventRef, HEAD_LEN, Kind, RecordError, encode, encoded_len, flags,
};
use proptest::prelude::*;
use zerocopy::IntoBytes as _;

fn encoded(event: &AgentFsEvent, path: &[u8], aux: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(event, path, aux, |part| bytes.extend_from_slice(part)).unwrap();
    assert_eq!(bytes.len(), encoded_len(path, aux).unwrap());
    bytes
}

#[test]
#[cfg(target_endian = "little")]
fn layout_is_the_documented_one() {
    let event = AgentFsEvent {
        seqno: 0x0102_0304_0506_0708,
        ts_nanos: 0x1112_1314_1516_1718,
        node: 0x2122_2324_2526_2728,
        watch: 0x3132_3334_3536_3738,
        kind: Kind::RENAMED,
        mask: 0x4142_4344,
        cookie: 0x5152_5354,
        flags: flags::DIRECTORY,
        path_len: 0,
        aux_len: 0,
        data: 0x6162_6364_6566_6768,
    };
    let hex: Vec<String> = encoded(&event, b"/a/b", b"/c")
        .chunks(8)
        .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    assert_eq!(
        hex,
        [
            "0807060504030201",
            "1817161514131211",
            "2827262524232221",
            "3837363534333231",
            "0300000044434241",
            "5453525101000000",
            "0400000002000000",
            "6867666564636261",
            "2f612f622f630000",
        ]
    );
}

#[test]
fn kinds_keep_their_numbers() {
    let known: Vec<(u32, &str)> = (0..64)
        .filter_map(|number| Some((number, Kind(number).name()?)))
        .collect();
    assert_eq!(
        known,
        [
            (0, "created"),
            (1, "removed"),
            (2, "modified"),
            (3, "renamed"),
            (4, "branch_created"),
            (5, "snapshot_created"),
            (16, "opened"),
            (17, "read"),
            (18, "closed"),
            (32, "overflow"),
            (33, "ignored"),
        ]
    );
    assert_eq!(Kind(77).to_string(), "kind 77");
}

#[test]
fn record_is_read_wherever_it_lies() {
    let mut bytes = vec![0xAA];
    bytes.extend(encoded(&AgentFsEvent::default(), b"12345678", b""));
    assert_eq!(EventRef::parse(&bytes[1..]).unwrap().path(), b"12345678");
}

fn any_event() -> impl Strategy<Value = AgentFsEvent> {
    any::<[u64; 8]>().prop_map(|words| zerocopy::transmute!(words))
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        event in any_event(),
        path in prop::collection::vec(any::<u8>(), 0..300),
        aux in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = encoded(&event, &path, &aux);
        let bytes = bytes.as_slice();
        let read = EventRef::parse(bytes).unwrap();
        let path_len = u32::try_from(path.len()).unwrap();
        let aux_len = u32::try_from(aux.len()).unwrap();
        prop_assert_eq!(*read.head(), AgentFsEvent { path_len, aux_len, ..event });
        prop_assert_eq!(read.path(), &path[..]);
        prop_assert_eq!(read.aux(), &aux[..]);
        prop_assert!(bytes[HEAD_LEN + path.len() + aux.len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn any_bytes_give_a_record_or_an_error(
        mut words in prop::collection::vec(any::<u64>(), 0..24),
        small_lengths in any::<Option<(u8, u8)>>(),
    ) {
        if let (Some((path_len, aux_len)), Some(word)) = (small_lengths, words.get_mut(6)) {
            *word = u64::from(path_len) | u64::from(aux_len) << 32;
        }
        let bytes = words.as_bytes();
        match EventRef::parse(bytes) {
            Ok(read) => {
                prop_assert_eq!(encoded_len(read.path(), read.aux()), Ok(bytes.len()));
            }
            Err(RecordError::TooShort { found }) => prop_assert!(found < HEAD_LEN),
            Err(RecordError::Length { expected, found }) => {
                prop_assert_eq!(found, bytes.len());
                prop_assert_ne!(expected, Some(found));
            }
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
