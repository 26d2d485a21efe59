//! Writes the seeds that the fuzz targets start from, made of real messages:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use std::error::Error;
use std::fs;
use std::path::Path;

use agentfs_fuzz::{Memory, ring};
use agentfs_proto::message::{FromDaemon, ToDaemon};
use agentfs_proto::record::{AgentFsEvent, Kind, encode, encoded_len};
use agentfs_proto::registration::Registration;
use agentfs_proto::ssz::Ssz;
use agentfs_ring::{Capacity, Producer, Reserve, create};
use agentfs_testkit::samples;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    frames()?;
    words()?;
    rings()?;
    producers()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> Outcome {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("seeds")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)?;
    Ok(())
}

/// Writes one of every message, alone, as the targets read them.
fn frames() -> Outcome {
    for (number, body) in (1..).zip(samples::requests()) {
        let name = format!("request_{number:02}_{}", body.name());
        let message = ToDaemon { request: 1, body };
        write("control_frames", &name, &encoded(&message))?;
    }
    for (number, body) in (1..).zip(samples::replies()) {
        let name = format!("reply_{number:02}_{}", body.name());
        let message = FromDaemon {
            request: 1,
            descriptors: 0,
            body,
        };
        write("control_frames", &name, &encoded(&message))?;
    }
    Ok(())
}

fn encoded(message: &impl Ssz) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.ssz_append(&mut bytes);
    bytes
}

/// Writes a channel with one request of each kind.
fn words() -> Outcome {
    let requests = [
        Registration::Set {
            queue: 1,
            wd: 1,
            mask: 0x8000_0FFF,
            st_dev: 41,
            st_ino: 7,
        },
        Registration::Remove { queue: 1, wd: 1 },
        Registration::Close { queue: 1 },
        Registration::Resume {
            queue: 1,
            instance: 2,
            after: 3,
        },
    ];
    let slots: Vec<u64> = requests.iter().flat_map(|it| it.to_words()).collect();
    for (name, tail) in [("empty", 0), ("three", 3), ("tail_too_far", 5000)] {
        let mut words = vec![tail, 0, 0];
        words.extend(&slots);
        write("request_words", name, &bytes_of(&words))?;
    }
    Ok(())
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Writes the memory of rings as an honest producer leaves it.
fn rings() -> Outcome {
    let (mut producer, fd) = create(Capacity::MIN)?;
    let memory = Memory::of(&fd);
    // The records from the head on, as the target places them.
    let image = |name: &str, len: usize, head: u64| {
        let mut bytes = memory.read(ring::TAIL, 8);
        bytes.extend(head.to_ne_bytes());
        bytes.extend(memory.read(ring::REFILL_AT, 8));
        let start = head as usize % Capacity::MIN.bytes();
        let mut area = memory.read(ring::DATA, Capacity::MIN.bytes());
        area.rotate_left(start);
        bytes.extend(&area[..len]);
        write("ring_consumer", name, &bytes)
    };
    image("empty", 0, 0)?;
    push(&mut producer, Kind::CREATED, b"/a.txt", b"")?;
    push(&mut producer, Kind::RENAMED, b"/a.txt", b"/b.txt")?;
    push(&mut producer, Kind::OVERFLOW, b"", b"")?;
    image("three_events", 512, 0)?;
    // Up to the end, with the padding that the next record needs.
    while producer.used() < 3900 {
        push(&mut producer, Kind::MODIFIED, b"/some/longer/path", b"")?;
    }
    memory.poke(ring::HEAD, producer.tail().get());
    let head = producer.tail().get();
    push(&mut producer, Kind::REMOVED, &[b'x'; 200], b"")?;
    image("around_the_end", 512, head)?;
    // What no honest producer writes: a record that wraps.
    let mut wraps = bytes_of(&[4096 + 448, 4096 - 64, u64::MAX]);
    wraps.extend(200_u32.to_ne_bytes());
    wraps.extend(1_u32.to_ne_bytes());
    write("ring_consumer", "wraps", &wraps)
}

fn push(producer: &mut Producer, kind: Kind, path: &[u8], aux: &[u8]) -> Outcome {
    let event = AgentFsEvent {
        seqno: 1,
        node: 7,
        watch: 1,
        kind,
        ..AgentFsEvent::default()
    };
    let Reserve::Slot(mut slot) = producer.reserve(encoded_len(path, aux)?)? else {
        return Err("the ring is full".into());
    };
    encode(&event, path, aux, |part| slot.put(part))?;
    slot.commit();
    let _ = producer.publish()?;
    Ok(())
}

/// Writes the acts of consumers: one that keeps up, one that sleeps, and one that lies.
fn producers() -> Outcome {
    let mut keeps_up = Vec::new();
    for round in 0..40 {
        keeps_up.extend([4, 64 + round, 3, 6]);
    }
    write("ring_producer", "keeps_up", &keeps_up)?;
    let mut sleeps = vec![1];
    sleeps.extend(0_u64.to_le_bytes());
    for _ in 0..20 {
        sleeps.extend([132, 20]);
    }
    sleeps.extend([7, 10]);
    write("ring_producer", "sleeps", &sleeps)?;
    let mut lies = vec![4, 100, 0];
    lies.extend(4_u64.to_le_bytes());
    lies.extend([132, 200, 4, 8, 1]);
    lies.extend(u64::MAX.wrapping_sub(8).to_le_bytes());
    lies.extend([4, 8]);
    write("ring_producer", "lies", &lies)
}
