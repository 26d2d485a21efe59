//! 100,000 writes to one watched file while the reader sleeps: one record and one wake-up.
//!
//! One thread writes and reads. The same with programs that are busy in processes of their own is
//! `burst --files 1 --reader late`.

use agentfs_core::OpenFlags;
use agentfs_engine::Api;
use agentfs_engine::synth::inotify::IN_MODIFY;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use super::Effort;
use crate::Failure;
use crate::engine::{Engine, per};
use crate::goal::Goal;
use crate::report::{Row, Table};
use crate::statistics::{Spread, float};

const WRITES: usize = 100_000;
const RING: usize = 64 << 10;

/// What the rounds have found.
#[derive(Default)]
struct Found {
    /// Nanoseconds of a write.
    ours: Vec<f64>,
    kernel: Vec<f64>,
    records: Vec<f64>,
    doorbells: Vec<f64>,
}

pub(super) fn tables(effort: Effort) -> Result<Vec<Table>, Failure> {
    let mut found = Found::default();
    for _ in 0..effort.rounds {
        ours(&mut found)?;
        found.kernel.push(kernel()?);
    }
    Ok(vec![table(found)])
}

fn ours(found: &mut Found) -> Result<(), Failure> {
    let flags = OpenFlags::CREATE | OpenFlags::WRITE_ONLY;
    let engine = Engine::new(true)?;
    let (branch, caller) = (&engine.branch, &engine.caller);
    let file = branch.open(caller, "/f", flags, 0o644)?;
    let reader = engine.open(Api::Inotify, RING)?;
    engine.watch(&reader, 1, branch.node_of(file)?, IN_MODIFY)?;
    reader.arm()?;
    let (each, ()) = per(WRITES, || {
        for _ in 0..WRITES {
            branch.write_at(caller, file, 0, b"x")?;
        }
        Ok(())
    })?;
    let records = reader.drain(&engine.service)?;
    found.ours.push(each);
    found.records.push(float(records as u64));
    found
        .doorbells
        .push(float(engine.service.counts().doorbells));
    Ok(())
}

/// Returns the nanoseconds of a write to a watched file on a tmpfs.
fn kernel() -> Result<f64, Failure> {
    let top = tempfile::tempdir_in("/dev/shm")?;
    let path = top.path().join("f");
    let instance = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let file = std::fs::File::create(&path)?;
    add_watch(&instance, &path, WatchFlags::MODIFY)?;
    let (each, ()) = per(WRITES, || {
        for _ in 0..WRITES {
            rustix::io::pwrite(&file, b"x", 0)?;
        }
        Ok(())
    })?;
    Ok(each)
}

fn table(found: Found) -> Table {
    let title = "100,000 writes to one watched file, the reader sleeps";
    let ratio = Spread::ratio(&found.ours, &found.kernel);
    let of = "the kernel, write and event together";
    let rows = [
        Row::new("ours", &found.ours).against(of, ratio, None),
        Row::new("kernel", &found.kernel),
    ];
    let further = [("records", found.records), ("wake-ups", found.doorbells)];
    let further = further.map(|(of, counts)| Goal::at_most(1.0, of, title, Spread::of(counts)));
    Table::new(title, "ns/write", rows).and_goals(further)
}
