//! From a record to the return of a kevent() that sleeps, on the user-space kqueue of the tests: there
//! is no kernel with another one here. What the hook adds is compared with what the same kqueue takes
//! for a byte in a pipe.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use agentfs_proto::record::{AgentFsEvent, Kind};
use tempfile::TempDir;

use super::{Libraries, Size, row, spawn, text};
use crate::Failure;
use crate::kqueue::NOTE_WRITE;
use crate::report::Table;
use crate::statistics::{Spread, micros};
use agentfs_testkit::scripted::{Queue, Scripted};

pub(super) fn table(libraries: &Libraries, size: Size) -> Result<Table, Failure> {
    let (ours, theirs) = measure(libraries, size)?;
    let rows = [
        row("a byte in a pipe, kevent(), read()", &theirs, None),
        row("ring", &ours, Some(("the pipe", &theirs, Some(1.15)))),
    ];
    let title = "From a change to the return of a kevent() that sleeps, in user space";
    Ok(Table::new(title, "microseconds", rows))
}

/// Returns the microseconds of a wake-up, the median of each round: by the ring and by a pipe.
fn measure(libraries: &Libraries, size: Size) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    if !size.measures {
        return Ok((ours, theirs));
    }
    let tree = TempDir::new_in("/dev/shm")?;
    let daemon = Scripted::start(tree.path());
    let watched = tree.path().join("watched");
    File::create(&watched)?;
    let (both, socket) = (libraries.both()?, daemon.socket());
    let words = ["wake", "kqueue", &text(&watched)];
    let mut ring = spawn::start(Some(&both), Some(&socket), &words)?;
    // The program inherits the end to read from.
    let (end, pipe) = rustix::pipe::pipe()?;
    let words = ["wake", "kqueue-pipe", &end.as_raw_fd().to_string()];
    let mut bare = spawn::start(Some(&libraries.kqueue), None, &words)?;
    for _ in 0..size.rounds {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..size.wakes {
            a.push(micros(ring.woken(|| {
                daemon.queue(1, post);
                Ok(())
            })?));
            b.push(micros(
                bare.woken(|| Ok(rustix::io::write(&pipe, &[1]).map(drop)?))?,
            ));
        }
        ours.push(Spread::of(a).median);
        theirs.push(Spread::of(b).median);
    }
    Ok((ours, theirs))
}

/// Posts one record for the first knote of a queue.
fn post(queue: &mut Queue) {
    let head = AgentFsEvent {
        kind: Kind::MODIFIED,
        watch: 0,
        mask: NOTE_WRITE,
        ..AgentFsEvent::default()
    };
    queue.write_record(&head, b"");
    queue.publish();
}
