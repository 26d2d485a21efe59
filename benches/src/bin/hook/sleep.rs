//! From a change to the return of a kevent() that sleeps, on the user-space kqueue of the tests: there is
//! no kernel with another one here. What the hook adds is compared with what the same kqueue takes for a
//! byte in a pipe.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use agentfs_benches::Spread;
use agentfs_benches::kqueue::NOTE_WRITE;
use agentfs_benches::table::Table;
use agentfs_proto::record::{AgentFsEvent, Kind};
use agentfs_testkit::scripted::{Queue, Scripted};

use super::{Failure, Program, row, woken};

pub(super) fn sleep(library: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let (rounds, wakes) = if quick { (3, 50) } else { (9, 1000) };
    let tree = tempfile::TempDir::new_in("/dev/shm")?;
    let daemon = Scripted::start(tree.path());
    let watched = tree.path().join("watched");
    File::create(&watched)?;
    let watched = watched.to_string_lossy().into_owned();
    let both = with_kqueue(library)?;
    let socket = daemon.socket();
    let mut ring = Program::start(Some(&both), Some(&socket), &["wake", "kqueue", &watched])?;
    // The program inherits the end to read from.
    let (end, pipe) = rustix::pipe::pipe()?;
    let number = end.as_raw_fd().to_string();
    let mut bare = Program::start(
        Some(&kqueue(library)),
        None,
        &["wake", "kqueue-pipe", &number],
    )?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..wakes {
            a.push(woken(&mut ring, || {
                daemon.queue(1, post);
                Ok(())
            })?);
            b.push(woken(&mut bare, || {
                rustix::io::write(&pipe, &[1])?;
                Ok(())
            })?);
        }
        ours.push(Spread::of(a).median);
        theirs.push(Spread::of(b).median);
    }
    Ok(vec![Table {
        title: "From a change to the return of a kevent() that sleeps, in user space".to_owned(),
        unit: "microseconds".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows: vec![
            row("a byte in a pipe, kevent(), read()", &theirs, None),
            row("ring", &ours, Some(("the pipe", &theirs, Some(1.15)))),
        ],
    }])
}

/// The user-space kqueue, built beside the library.
fn kqueue(library: &Path) -> PathBuf {
    library.with_file_name("libagentfs_testkq_preload.so")
}

/// What is preloaded into a program whose kqueue is the one in user space.
pub(super) fn with_kqueue(library: &Path) -> Result<PathBuf, Failure> {
    Ok(std::env::join_paths([library, &kqueue(library)])?.into())
}

/// One record for the first knote of a queue.
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
