//! Both ends of a ring in processes of their own: `cargo run -p agentfs-ring --example two_processes`.
//!
//! The parent makes the ring and a doorbell and starts itself again as the reader, with the two
//! descriptors as its standard input and output. The reader sleeps until the doorbell is rung.
#![expect(clippy::print_stderr, reason = "an example shows what it does")]

use std::error::Error;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use agentfs_ring::doorbell::{self, BellKind, Waiter, Woken};
use agentfs_ring::{ArmOutcome, Bell, Capacity, Consumer, OwnerId, Reserve, create};

const RECORDS: u32 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("reader") => read(),
        _ => write(),
    }
}

fn write() -> Result<(), Box<dyn Error>> {
    let (mut producer, ring) = create(Capacity::DEFAULT)?;
    let (ringer, waiter) = doorbell::pipe()?;
    let mut reader = Command::new(std::env::current_exe()?)
        .arg("reader")
        .stdin(Stdio::from(ring))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(waiter)))
        .spawn()?;
    let mut rings = 0;
    for number in 0..RECORDS {
        let record = format!("record {number}");
        let Reserve::Slot(mut slot) = producer.reserve(record.len())? else {
            return Err("the ring is full, and this example reads no refill request".into());
        };
        slot.put(record.as_bytes());
        slot.commit();
        if producer.publish()? == Bell::Ring {
            ringer.ring()?;
            rings += 1;
        }
    }
    // The reader sees a hang-up once it has read all.
    drop(ringer);
    let status = reader.wait()?;
    eprintln!("{RECORDS} records, {rings} times the doorbell was rung, the reader: {status}");
    Ok(())
}

fn read() -> Result<(), Box<dyn Error>> {
    let consumer = Consumer::open(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    let doorbell = std::io::stdout().as_fd().try_clone_to_owned()?;
    let doorbell = Waiter::from_fd(doorbell, BellKind::Pipe);
    let mut count = 0;
    loop {
        let mut claim = consumer
            .claim(OwnerId::this_process(), |_| true)
            .ok_or("another process pops")?;
        while let Some(record) = claim.next()? {
            assert_eq!(record.to_vec(), format!("record {count}").as_bytes());
            count += 1;
        }
        let _ = claim.release();
        if count == RECORDS {
            return Ok(());
        }
        if claim.arm()? == ArmOutcome::MaySleep {
            drop(claim);
            match doorbell.wait(None, None)? {
                Woken::Rung => drop(doorbell.clear()?),
                // What was published before the writer ended is still there.
                Woken::PeerGone | Woken::TimedOut => {}
            }
        }
    }
}
