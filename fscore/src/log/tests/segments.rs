//! Segments, their rotation, and the bytes of them that are documented.

use super::machine::{KIND, Machine, STORE, all, append};
use crate::disk::directory::Directory as _;
use crate::log::Boot;

#[test]
fn every_rotation_begins_a_segment_and_the_records_go_on() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    assert_eq!(append(&log, b"a").unwrap(), 1);
    assert_eq!(append(&log, b"b").unwrap(), 2);
    assert_eq!(log.rotate().unwrap(), 3);
    assert_eq!(log.rotate().unwrap(), 3, "an empty segment is not replaced");
    assert_eq!(append(&log, b"c").unwrap(), 3);
    let names = ["log-0000000000000001", "log-0000000000000003"];
    assert_eq!(machine.segments(), names);
    machine.kill();
    assert_eq!(machine.payloads(1), [b"a", b"b", b"c"]);
    assert_eq!(machine.payloads(3), [b"c"]);
}

#[test]
fn what_a_checkpoint_holds_is_forgotten_and_nothing_else() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    for record in [b"a", b"b", b"c"] {
        append(&log, record).unwrap();
        log.rotate().unwrap();
    }
    log.forget_before(1).unwrap();
    assert_eq!(machine.segments().len(), 4);
    log.forget_before(2).unwrap();
    let left = [
        "log-0000000000000002",
        "log-0000000000000003",
        "log-0000000000000004",
    ];
    assert_eq!(machine.segments(), left);
    log.forget_before(4).unwrap();
    assert_eq!(machine.segments(), ["log-0000000000000004"]);
    log.forget_before(100).unwrap();
    assert_eq!(
        machine.segments(),
        ["log-0000000000000004"],
        "it is written to"
    );
    append(&log, b"d").unwrap();
    machine.kill();
    assert_eq!(machine.payloads(4), [b"d"]);
}

#[test]
fn segments_from_before_a_restart_are_forgotten_too() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    let checkpoint = log.rotate().unwrap();
    append(&log, b"b").unwrap();
    machine.kill();
    let log = machine.log(checkpoint);
    append(&log, b"c").unwrap();
    assert_eq!(machine.segments().len(), 3);
    let number = log.rotate().unwrap();
    log.forget_before(number).unwrap();
    assert_eq!(machine.segments(), ["log-0000000000000004"]);
}

#[test]
fn unused_room_of_a_closed_segment_is_given_back() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    assert!(
        machine
            .disk
            .open("log-0000000000000001")
            .unwrap()
            .len()
            .unwrap()
            > 4096
    );
    log.rotate().unwrap();
    let len = machine.disk.open("log-0000000000000001").unwrap().len();
    assert_eq!(len.unwrap(), 64 + 17 + 1);
    append(&log, b"b").unwrap();
    machine.kill();
    drop(machine.log(1));
    let len = machine.disk.open("log-0000000000000002").unwrap().len();
    assert_eq!(len.unwrap(), 64 + 17 + 1);
}

#[test]
fn records_carry_any_payload_and_their_kind() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    let payloads: Vec<Vec<u8>> = [0, 1, 282, 283, 284, 566, 567, 100_000]
        .iter()
        .map(|len| vec![5; *len])
        .collect();
    let mut numbers = Vec::new();
    for payload in &payloads {
        numbers.push(append(&log, payload).unwrap());
    }
    assert_eq!(
        numbers[..6],
        [1, 2, 3, 4, 6, 8],
        "long ones have several parts"
    );
    machine.kill();
    let records = all(&machine.recover(1).unwrap());
    for (record, (payload, number)) in records.iter().zip(payloads.iter().zip(numbers)) {
        assert_eq!((record.number, record.kind), (number, KIND));
        assert_eq!(record.kind.number(), 7);
        assert!(record.payload == *payload, "{} bytes", payload.len());
    }
    assert_eq!(records.len(), payloads.len());
}

#[test]
fn bytes_are_those_of_the_documentation() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"payload").unwrap();
    log.sync().unwrap();
    let mut bytes = [0; 64 + 24 + 33];
    let file = machine.disk.open("log-0000000000000001").unwrap();
    file.read_at(&mut bytes, 0).unwrap();
    let (header, records) = bytes.split_at(64);
    let (record, marker) = records.split_at(24);

    assert_eq!(&header[..8], b"AgFsWLog");
    assert_eq!(header[8..12], 1_u32.to_le_bytes());
    let checksum = crc32fast::hash(&[&header[..12], &header[16..]].concat());
    assert_eq!(header[12..16], checksum.to_le_bytes());
    assert_eq!(header[16..32], STORE.0);
    let Boot(boot) = machine.place().boot;
    assert_eq!(header[32..48], boot.unwrap());
    assert_eq!(header[48..56], 1_u64.to_le_bytes());
    assert_eq!(header[56..64], 1_u64.to_le_bytes());

    assert_eq!(record[..4], 7_u32.to_le_bytes());
    let checksum =
        |record: &[u8]| crc32fast::hash(&[&STORE.0, &record[..4], &record[8..]].concat());
    assert_eq!(record[4..8], checksum(record).to_le_bytes());
    assert_eq!(record[8..16], 1_u64.to_le_bytes());
    assert_eq!(record[16], 7);
    assert_eq!(&record[17..], b"payload");

    assert_eq!(marker[..4], 16_u32.to_le_bytes());
    assert_eq!(marker[4..8], checksum(marker).to_le_bytes());
    assert_eq!(marker[8..16], 2_u64.to_le_bytes());
    assert_eq!(marker[16], 0);
    assert_eq!(marker[17..25], 2_u64.to_le_bytes());
    assert_eq!(marker[25..33], 1_u64.to_le_bytes());
}
