//! Logs of which a part is not what was written.

use std::io::IoSlice;
use std::ops::Range;

use agentfs_testkit::random::Random;

use super::machine::{Machine, SIZES, STORE, all, append};
use crate::disk::directory::Directory as _;
use crate::disk::simulated::Fault;
use crate::log::{Damage, Log, LogError, Recovery, StoreId};

const FIRST: &str = "log-0000000000000001";

/// A record on the disk: its number, and the bytes it takes.
#[derive(Debug)]
struct Lying {
    number: u64,
    segment: String,
    bytes: Range<u64>,
    payload: Vec<u8>,
}

/// Fills a log with records that are all on disk, except for the last one.
fn filled(machine: &Machine, random: &mut Random) -> Vec<Lying> {
    let log = machine.log(1);
    let mut lying: Vec<Lying> = Vec::new();
    let mut segment = FIRST.to_owned();
    for _ in 0..random.range(5..30) {
        if random.chance(20) {
            segment = format!("log-{:016x}", log.rotate().unwrap());
        }
        let len = random.below(280);
        let payload = random.bytes(len);
        let start = log.size();
        let number = append(&log, &payload).unwrap();
        let bytes = start..log.size();
        let segment = segment.clone();
        lying.push(Lying {
            number,
            segment,
            bytes,
            payload,
        });
        if random.chance(30) {
            log.sync().unwrap();
        }
    }
    // The second sync says that the first has ended.
    log.sync().unwrap();
    append(&log, b"last").unwrap();
    log.sync().unwrap();
    lying
}

fn restart(machine: &mut Machine, is_power_cut: bool) {
    if is_power_cut {
        machine.cut_power();
    } else {
        machine.kill();
    }
}

fn payloads(recovery: &Recovery) -> Vec<Vec<u8>> {
    all(recovery).into_iter().map(|it| it.payload).collect()
}

/// Opens a damaged log for writing, which ends in the middle at times. Nothing is lost by that.
fn open_at_last(
    machine: &mut Machine,
    mut recovery: Recovery,
    random: &mut Random,
    expected: &[&[u8]],
) -> Log {
    loop {
        let calls = random.pick(&[1, 2, 4, 8, 16, 1 << 40]);
        machine
            .disk
            .fail_after(random.range(0..calls), Fault::Crash);
        let opened = recovery.into_log(machine.data().unwrap(), SIZES);
        if let Ok(log) = opened {
            machine.disk.fail_after(1 << 40, Fault::Crash);
            return log;
        }
        restart(machine, random.chance(50));
        recovery = machine.recover(1).unwrap();
        assert_eq!(payloads(&recovery), expected);
    }
}

#[test]
fn damaged_record_is_reported_and_what_lies_before_it_is_kept() {
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let mut machine = Machine::new(seed);
        let records = filled(&machine, &mut random);
        let broken = random.choose(&records);
        let at = random.range(broken.bytes.clone());
        let bit = 1 << random.below(8);
        let is_power_cut = random.chance(50);
        restart(&mut machine, is_power_cut);
        let offset = usize::try_from(at).unwrap();
        machine
            .disk
            .corrupt(&broken.segment, offset, |bytes| bytes[0] ^= bit);

        let recovery = machine.recover(1).unwrap();
        let damage = Damage {
            segment: broken.segment.clone(),
            offset: broken.bytes.start,
            record: broken.number,
        };
        assert_eq!(recovery.damage, Some(damage), "seed {seed}, byte {at}");
        let before = records.iter().filter(|it| it.number < broken.number);
        let mut expected: Vec<&[u8]> = before.map(|it| &*it.payload).collect();
        assert_eq!(payloads(&recovery), expected, "seed {seed}");

        let log = open_at_last(&mut machine, recovery, &mut random, &expected);
        append(&log, b"after").unwrap();
        log.sync().unwrap();
        drop(log);
        let is_power_cut = random.chance(50);
        restart(&mut machine, is_power_cut);
        expected.push(b"after");
        assert_eq!(machine.payloads(1), expected, "seed {seed}");
    }
}

#[test]
fn what_lies_before_damage_is_on_disk_once_the_log_is_open() {
    for seed in 0..100 {
        let mut machine = Machine::new(seed);
        let log = machine.log(1);
        machine.data().unwrap().write(b"content", 0).unwrap();
        append(&log, b"a").unwrap();
        log.rotate().unwrap();
        for record in [b"b", b"c"] {
            append(&log, record).unwrap();
        }
        machine.kill();
        let second = "log-0000000000000002";
        machine.disk.corrupt(second, 64 + 17, |bytes| bytes[0] ^= 1);
        let recovery = machine.recover(1).unwrap();
        assert_eq!(recovery.damage.as_ref().map(|it| it.record), Some(2));
        drop(recovery.into_log(machine.data().unwrap(), SIZES).unwrap());
        machine.cut_power();
        assert_eq!(machine.payloads(1), [b"a"], "seed {seed}");
        let mut content = [0; 7];
        let read = machine.data().unwrap().file.read_at(&mut content, 0);
        assert_eq!((read, &content), (Ok(7), b"content"), "seed {seed}");
    }
}

#[test]
fn segments_after_a_damaged_place_are_set_aside_and_not_removed() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    log.rotate().unwrap();
    append(&log, b"b").unwrap();
    machine.kill();
    machine.disk.corrupt(FIRST, 64 + 17, |bytes| bytes[0] ^= 1);
    let recovery = machine.recover(1).unwrap();
    assert!(recovery.damage.is_some());
    drop(recovery.into_log(machine.data().unwrap(), SIZES).unwrap());
    let aside = [
        "damaged-1-log-0000000000000001",
        "damaged-1-log-0000000000000002",
        "data",
    ];
    assert_eq!(machine.disk.list().unwrap()[..3], aside);
    assert_eq!(machine.segments(), [FIRST]);
}

#[test]
fn segment_that_is_missing_or_has_no_header_is_reported() {
    for is_missing in [true, false] {
        let machine = Machine::new(1);
        let log = machine.log(1);
        for record in [b"a", b"b", b"c"] {
            append(&log, record).unwrap();
            log.sync().unwrap();
            log.rotate().unwrap();
        }
        machine.kill();
        let second = machine.segments()[1].clone();
        if is_missing {
            machine.disk.remove(&second).unwrap();
        } else {
            machine.disk.corrupt(&second, 20, |bytes| bytes[0] ^= 1);
        }
        let recovery = machine.recover(1).unwrap();
        let damage = recovery.damage.clone().unwrap();
        assert_eq!(damage.record, 3, "{damage}");
        assert_eq!(payloads(&recovery), [b"a"]);
    }
}

#[test]
fn torn_tail_is_no_damage() {
    for tail in [
        &b"\x05\0\0\0"[..],
        &[0xff; 100],
        &[7; 16],
        b"\x01\0\0\0aaaa\x02\0\0\0\0\0\0\0\x07x",
    ] {
        let machine = Machine::new(1);
        let log = machine.log(1);
        append(&log, b"a").unwrap();
        let end = log.size();
        machine.kill();
        let file = machine.disk.open(FIRST).unwrap();
        file.write_at(&[IoSlice::new(tail)], end).unwrap();
        assert_eq!(machine.payloads(1), [b"a"]);
    }
}

#[test]
fn payload_that_looks_like_records_is_none() {
    // The log of another store, as a program in a branch could have it in a name or an attribute.
    let other = Machine::new(1);
    let log = {
        let mut place = other.place();
        place.store = StoreId([9; 16]);
        let recovery = Recovery::open(place, 1).unwrap();
        recovery.into_log(other.data().unwrap(), SIZES).unwrap()
    };
    for _ in 0..4 {
        append(&log, b"x").unwrap();
        log.sync().unwrap();
    }
    let mut bytes = vec![0; 200];
    let file = other.disk.open(FIRST).unwrap();
    file.read_at(&mut bytes, 0).unwrap();

    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    let start = usize::try_from(log.size()).unwrap();
    append(&log, &bytes).unwrap();
    machine.kill();
    machine.disk.corrupt(FIRST, start, |bytes| bytes[0] ^= 1);
    assert_eq!(machine.payloads(1), [b"a"]);
}

#[test]
fn log_of_a_newer_format_or_another_store_is_refused_and_left_alone() {
    let machine = Machine::new(1);
    let log = machine.log(1);
    append(&log, b"a").unwrap();
    log.rotate().unwrap();
    machine.kill();
    let names = machine.disk.list().unwrap();

    let mut place = machine.place();
    place.store = StoreId([3; 16]);
    let error = Recovery::open(place, 1).unwrap_err();
    let segment = FIRST.to_owned();
    assert_eq!(
        error,
        LogError::Foreign {
            segment,
            store: STORE
        }
    );
    assert!(error.to_string().contains(&STORE.to_string()), "{error}");

    let second = "log-0000000000000002";
    machine.disk.corrupt(second, 8, |bytes| bytes[0] = 2);
    let error = machine.recover(1).unwrap_err();
    let segment = second.to_owned();
    assert_eq!(
        error,
        LogError::Newer {
            segment,
            version: 2
        }
    );
    assert_eq!(machine.disk.list().unwrap(), names);

    machine.disk.corrupt(second, 8, |bytes| bytes[0] = 1);
    assert_eq!(machine.payloads(1), [b"a"]);
}

#[test]
fn no_bytes_of_a_segment_make_recovery_panic() {
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let machine = Machine::new(seed);
        drop(filled(&machine, &mut random));
        machine.kill();
        for _ in 0..random.range(1..20) {
            let segments = machine.segments();
            let segment = random.choose(&segments);
            let len = machine.disk.open(segment).unwrap().len().unwrap();
            let at = usize::try_from(random.range(0..len.min(600))).unwrap();
            let byte = random.pick(&[0, 1, 0x40, 0x80, 0xff]);
            machine.disk.corrupt(segment, at, |bytes| bytes[0] = byte);
        }
        let Ok(recovery) = machine.recover(1) else {
            continue;
        };
        let count = all(&recovery).len();
        let log = recovery.into_log(machine.data().unwrap(), SIZES).unwrap();
        append(&log, b"after").unwrap();
        drop(log);
        machine.kill();
        assert_eq!(machine.payloads(1).len(), count + 1, "seed {seed}");
    }
}
