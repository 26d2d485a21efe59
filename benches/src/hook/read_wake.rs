//! From a record to the return of the program's read(), which sleeps.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileExt as _;

use nix::sys::eventfd::EventFd;
use tempfile::TempDir;

use super::{Libraries, Size, row, spawn, text};
use crate::Failure;
use crate::child::Process;
use crate::report::Table;
use crate::statistics::{Spread, micros};
use agentfs_testkit::scripted::{Scripted, event};

/// Microseconds of a wake-up, the median of each round.
#[derive(Default)]
struct Medians {
    ring: Vec<f64>,
    kernel: Vec<f64>,
    eventfd: Vec<f64>,
    /// The inotify event by which the library is woken.
    bell: Vec<f64>,
}

pub(super) fn table(libraries: &Libraries, size: Size) -> Result<Table, Failure> {
    let Medians {
        ring,
        kernel,
        eventfd,
        bell,
    } = measure(libraries, size)?;
    let rows = [
        row("write() of an eventfd", &eventfd, None),
        row("kernel inotify, write() of a file", &kernel, None),
        row(
            "the bell alone: kernel inotify, read() of a file",
            &bell,
            Some(("eventfd", &eventfd, None)),
        ),
        row(
            "ring, against the bell alone",
            &ring,
            Some(("the bell", &bell, None)),
        ),
        row(
            "ring, against the eventfd",
            &ring,
            Some(("eventfd", &eventfd, Some(1.15))),
        ),
        row(
            "ring, against the kernel's inotify",
            &ring,
            Some(("inotify", &kernel, Some(1.0))),
        ),
    ];
    let title = "From a change to the return of a read() that sleeps";
    Ok(Table::new(title, "microseconds", rows))
}

fn measure(libraries: &Libraries, size: Size) -> Result<Medians, Failure> {
    let mut medians = Medians::default();
    if !size.measures {
        return Ok(medians);
    }
    let tree = TempDir::new_in("/dev/shm")?;
    let daemon = Scripted::start(tree.path());
    let native = TempDir::new_in("/dev/shm")?;
    let file = File::create(native.path().join("file"))?;
    let rung = native.path().join("rung");
    std::fs::write(&rung, [1])?;
    let (library, socket) = (Some(libraries.shim.as_path()), daemon.socket());
    let words = ["wake", "inotify", &text(tree.path())];
    let mut ring = spawn::start(library, Some(&socket), &words)?;
    let words = ["wake", "inotify", &text(native.path())];
    let mut kernel = spawn::start(None, None, &words)?;
    let bell = EventFd::from_value(0)?;
    let mut eventfd = start_on_eventfd(&bell)?;
    let mut alone = spawn::start(None, None, &["wake", "bell", &text(&rung)])?;
    let rung = File::open(&rung)?;
    for _ in 0..size.rounds {
        let [mut a, mut b, mut c, mut d] = [const { Vec::new() }; 4];
        for number in 0..size.wakes {
            let change = event(1, 2, format!("file{}", number % 2));
            a.push(micros(ring.woken(|| {
                daemon.inject(1, std::slice::from_ref(&change));
                Ok(())
            })?));
            b.push(micros(
                kernel.woken(|| Ok(file.write_at(b"x", 0).map(drop)?))?,
            ));
            c.push(micros(eventfd.woken(|| Ok(bell.write(1).map(drop)?))?));
            d.push(micros(
                alone.woken(|| Ok(rung.read_at(&mut [0], 0).map(drop)?))?,
            ));
        }
        medians.ring.push(Spread::of(a).median);
        medians.kernel.push(Spread::of(b).median);
        medians.eventfd.push(Spread::of(c).median);
        medians.bell.push(Spread::of(d).median);
    }
    Ok(medians)
}

fn start_on_eventfd(bell: &EventFd) -> Result<Process, Failure> {
    // A copy that the program inherits.
    let copy = rustix::io::dup(bell.as_fd())?;
    let number = copy.as_raw_fd().to_string();
    spawn::start(None, None, &["wake", "eventfd", &number])
}
