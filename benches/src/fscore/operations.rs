//! Operations against the same on tmpfs, the cost of events, and two branches at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use agentfs_core::event::{EventKind, EventSink};
use agentfs_core::id::NodeId;
use agentfs_core::{Branch, Caller, FsConfig, FsCore, HandleId, OpenFlags, RenameFlags};
use rustix::io::pwrite;

use super::Size;
use super::race::{Race, Rounds, nanos_each};
use super::report::Events;
use super::tmpfs::Tmpfs;

/// A filesystem with one directory to work in.
pub(super) struct Ours {
    pub(super) fs: FsCore,
    pub(super) branch: Branch,
    pub(super) caller: Caller,
    pub(super) dir: NodeId,
}

impl Ours {
    pub(super) fn new(track_events: bool) -> io::Result<Self> {
        Self::with(FsConfig {
            track_events,
            ..FsConfig::default()
        })
    }

    pub(super) fn with(config: FsConfig) -> io::Result<Self> {
        let fs = FsCore::new(config).map_err(io::Error::other)?;
        let branch = fs.branch(FsCore::MAIN)?;
        let caller = Caller::root();
        let dir = branch.mkdir(&caller, "/dir", 0o755)?.node;
        Ok(Self {
            fs,
            branch,
            caller,
            dir,
        })
    }

    pub(super) fn open(&self, name: &str, flags: OpenFlags) -> io::Result<HandleId> {
        let (caller, dir) = (&self.caller, self.dir);
        let (handle, _) = self
            .branch
            .create_at(caller, dir, name.as_bytes(), flags, 0o644)?;
        Ok(handle)
    }

    pub(super) fn create(&self, name: &str) -> io::Result<()> {
        let flags = OpenFlags::EXCLUSIVE | OpenFlags::WRITE_ONLY;
        let handle = self.open(name, flags)?;
        Ok(self.branch.close(&self.caller, handle)?)
    }
}

/// Returns the names of the files that a round works on.
pub(super) fn names(size: Size) -> Vec<String> {
    (0..size.operations)
        .map(|n| format!("file-{n:07}"))
        .collect()
}

/// Goes through the names once each way, and returns the nanoseconds for one.
pub(super) fn round(
    names: &[String],
    mut ours: impl FnMut(&str) -> io::Result<()>,
    mut theirs: impl FnMut(&str) -> io::Result<()>,
) -> io::Result<(f64, f64)> {
    let each = |run: &mut dyn FnMut(&str) -> io::Result<()>| {
        let mut result = Ok(());
        let count = u32::try_from(names.len()).map_err(io::Error::other)?;
        let nanos = nanos_each(count, || {
            result = names.iter().try_for_each(|name| run(name));
        });
        result.map(|()| nanos)
    };
    Ok((each(&mut ours)?, each(&mut theirs)?))
}

/// Measures everything that tmpfs can do too, on as many files as a round has operations.
pub(super) fn against_tmpfs(size: Size) -> io::Result<Vec<Race>> {
    let names = names(size);
    let what = [
        "create",
        "stat",
        "readdir, per entry",
        "rename",
        "unlink",
        "write 4 KiB",
        "append 100 bytes",
    ];
    let mut rounds = Rounds::new(&what);
    for _ in 0..size.rounds {
        let (ours, theirs) = (Ours::new(true)?, Tmpfs::new()?);
        rounds.begin();
        let (branch, caller, dir) = (&ours.branch, &ours.caller, ours.dir);
        rounds.push(round(
            &names,
            |name| ours.create(name),
            |name| theirs.create(name),
        )?);
        rounds.push(round(
            &names,
            |name| Ok(branch.lookup(caller, dir, name.as_bytes()).map(drop)?),
            |name| theirs.stat(name).map(drop),
        )?);
        rounds.push(readdir(&ours, &theirs, size)?);
        rounds.push(round(
            &names,
            |name| {
                let to = format!("moved-{name}");
                let (from, to, flags) = (name.as_bytes(), to.as_bytes(), RenameFlags::REPLACE);
                Ok(branch.rename_at(caller, dir, from, dir, to, flags)?)
            },
            |name| theirs.rename(name, &format!("moved-{name}")),
        )?);
        let moved: Vec<String> = names.iter().map(|name| format!("moved-{name}")).collect();
        rounds.push(round(
            &moved,
            |name| Ok(branch.unlink_at(caller, dir, name.as_bytes())?),
            |name| theirs.unlink(name),
        )?);
        rounds.push(writes(&ours, &theirs, &names)?);
        rounds.push(appends(&ours, &theirs, &names)?);
    }
    Ok(rounds.races())
}

fn readdir(ours: &Ours, theirs: &Tmpfs, size: Size) -> io::Result<(f64, f64)> {
    let (mut count, mut expected) = (Ok(0), Ok(0));
    let own = nanos_each(size.operations, || count = list(ours));
    let other = nanos_each(size.operations, || expected = theirs.readdir());
    if count? != expected? {
        return Err(io::Error::other("the two directories do not hold the same"));
    }
    Ok((own, other))
}

/// Lists a directory in parts, as getdents does.
fn list(ours: &Ours) -> io::Result<usize> {
    let (branch, caller) = (&ours.branch, &ours.caller);
    let handle = branch.open_node(caller, ours.dir, OpenFlags::DIRECTORY)?;
    let (mut count, mut cookie) = (0, 0);
    loop {
        let part = branch.readdir(caller, handle, cookie, 1024)?;
        let Some(last) = part.last() else { break };
        cookie = last.cookie;
        count += part
            .iter()
            .filter(|entry| entry.name.first() != Some(&b'.'))
            .count();
    }
    branch.close(caller, handle)?;
    Ok(count)
}

/// Pages of a file that is 16 MiB long at most: first written, then overwritten.
fn writes(ours: &Ours, theirs: &Tmpfs, names: &[String]) -> io::Result<(f64, f64)> {
    let (data, handle) = ([7; 4096], ours.open("pages", OpenFlags::READ_WRITE)?);
    let fd = theirs.open("pages")?;
    let (mut at, mut their_at) = (0, 0);
    let next = |at: &mut u64| {
        let here = *at;
        *at = (*at + 4096) % (16 << 20);
        here
    };
    let (branch, caller) = (&ours.branch, &ours.caller);
    round(
        names,
        |_| {
            Ok(branch
                .write_at(caller, handle, next(&mut at), &data)
                .map(drop)?)
        },
        |_| Ok(pwrite(&fd, &data, next(&mut their_at)).map(drop)?),
    )
}

fn appends(ours: &Ours, theirs: &Tmpfs, names: &[String]) -> io::Result<(f64, f64)> {
    let flags = OpenFlags::WRITE_ONLY | OpenFlags::APPEND;
    let (data, handle) = ([7; 100], ours.open("log", flags)?);
    let fd = theirs.open_to_append("log")?;
    let (branch, caller) = (&ours.branch, &ours.caller);
    round(
        names,
        |_| Ok(branch.write(caller, handle, &data).map(drop)?),
        |_| Ok(rustix::io::write(&fd, &data).map(drop)?),
    )
}

/// The cheapest sink there is.
#[derive(Default)]
struct Count(AtomicU64);

impl EventSink for Count {
    fn on_event(&self, _: &EventKind) {}

    fn on_envelope(&self, _: &agentfs_core::event::Envelope) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Measures writes of one byte with so many sinks, against writes with tracking off.
pub(super) fn events(size: Size) -> io::Result<Vec<Events>> {
    let names: Vec<String> = (0..size.operations).map(|_| String::new()).collect();
    let mut all = Vec::new();
    for sinks in [0, 1, 8] {
        let mut rounds = Vec::new();
        for _ in 0..size.rounds {
            let (tracked, untracked) = (Ours::new(true)?, Ours::new(false)?);
            for _ in 0..sinks {
                let sink = Arc::new(Count::default());
                tracked
                    .fs
                    .subscribe_events(sink)
                    .map_err(io::Error::other)?;
            }
            let ready = |ours: &Ours| ours.open("file", OpenFlags::READ_WRITE);
            let (one, two) = (ready(&tracked)?, ready(&untracked)?);
            let write = |ours: &Ours, handle| {
                Ok(ours
                    .branch
                    .write_at(&ours.caller, handle, 0, &[1])
                    .map(drop)?)
            };
            rounds.push(round(
                &names,
                |_| write(&tracked, one),
                |_| write(&untracked, two),
            )?);
        }
        let write = Race::of("write 1 byte", &rounds);
        all.push(Events { sinks, write });
    }
    Ok(all)
}

/// Measures files made in two branches, one branch after the other against both at once; and the same
/// in two filesystems, which share nothing: what they gain is all that the machine gives.
pub(super) fn parallel(size: Size) -> io::Result<[Race; 2]> {
    let names = names(size);
    let (mut branches, mut filesystems) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        branches.push(in_turn_and_at_once(&names, &four_branches()?)?);
        let apart = [
            Ours::new(true)?,
            Ours::new(true)?,
            Ours::new(true)?,
            Ours::new(true)?,
        ];
        filesystems.push(in_turn_and_at_once(&names, &apart)?);
    }
    Ok([
        Race::of("create in two branches", &branches),
        Race::of("create in two filesystems", &filesystems),
    ])
}

fn four_branches() -> io::Result<[Ours; 4]> {
    let fs = Ours::new(true)?;
    let branch = || -> io::Result<Ours> {
        let id = fs
            .fs
            .branch_create_from_current(&fs.caller, FsCore::MAIN, "")?;
        Ok(Ours {
            fs: fs.fs.clone(),
            branch: fs.fs.branch(id)?,
            caller: fs.caller.clone(),
            dir: fs.dir,
        })
    };
    Ok([branch()?, branch()?, branch()?, branch()?])
}

/// Fills two places one after the other and two more at once, and returns the nanoseconds for one file.
fn in_turn_and_at_once(names: &[String], places: &[Ours; 4]) -> io::Result<(f64, f64)> {
    let files = u32::try_from(2 * names.len()).map_err(io::Error::other)?;
    let fill = |ours: &Ours| names.iter().try_for_each(|name| ours.create(name));
    let [a, b, c, d] = places;
    let (mut first, mut second) = (Ok(()), Ok(()));
    let in_turn = nanos_each(files, || first = fill(a).and_then(|()| fill(b)));
    let at_once = nanos_each(files, || {
        thread::scope(|scope| {
            let other = scope.spawn(|| fill(c));
            let own = fill(d);
            let panicked = |_| Err(io::Error::other("a thread panicked"));
            second = own.and(other.join().unwrap_or_else(panicked));
        });
    });
    first.and(second)?;
    Ok((in_turn, at_once))
}
