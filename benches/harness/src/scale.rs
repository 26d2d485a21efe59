//! What a change and a watch cost when there are many watches, or many sessions.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use agentfs_core::id::{NodeId, Seq, SessionId};
use agentfs_core::{Branch, Caller, FsConfig, FsCore};
use agentfs_engine::Api as QueueApi;
use agentfs_engine::WatchId;
use agentfs_engine::service::{NodeInterest, OpenedQueue, QueueLimits, WatchService};
use agentfs_ring::{Bell, Capacity, Consumer, OwnerId};
use indicatif::ProgressBar;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Serialize;

use crate::cli::Progress;
use crate::model::{Failure, Grid, Line, Part, Plot, short};
use crate::stage::Place;
use crate::watcher::NativeReader;

/// Measures what a watch and a change cost among many watches, and a change among many sessions
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench scale
  agentfs-bench scale --max-watches 1000000 --max-sessions 1000 --plots plots")]
pub(crate) struct Args {
    /// From 10 to this many watches, in steps of ten. The kernel's end at its limit,
    /// /proc/sys/fs/inotify/max_user_watches
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    max_watches: u32,
    /// From 1 to this many sessions, in steps of ten. The kernel's instances end at its limit,
    /// /proc/sys/fs/inotify/max_user_instances
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_sessions: u32,
    /// Changes of which a figure is the mean
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1000..))]
    changes: u32,
}

impl Args {
    /// A short run, for a first look.
    pub(crate) fn quick() -> Self {
        Self {
            max_watches: 100_000,
            max_sessions: 100,
            changes: 10_000,
        }
    }
}

/// Changes between two looks of the reader.
const BATCH: u32 = 1000;

/// What was measured with so many watches or sessions.
#[derive(Clone, Copy, Debug, Serialize)]
struct Cost {
    count: u32,
    /// Nanoseconds for making one more.
    register: f64,
    /// Nanoseconds for a change that one watch hears, and for reading it.
    change: f64,
    /// Nanoseconds for a change that all hear, and for reading it everywhere.
    to_all: f64,
}

pub(crate) fn run(args: &Args, progress: &Progress) -> Result<Part, Failure> {
    let steps = |least: u32, most: u32| -> Vec<u32> {
        let powers = (0..).map(|power| least * 10_u32.pow(power));
        powers.take_while(|it| *it <= most).collect()
    };
    let watches = steps(10, args.max_watches);
    let sessions = steps(1, args.max_sessions);
    let bar = progress.bar("scale", 2 * (watches.len() + sessions.len()) as u64);
    let limit = |name: &str, fallback: u32| {
        let path = format!("/proc/sys/fs/inotify/{name}");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().parse().unwrap_or(fallback)
    };
    let within = |counts: &[u32], most: u32| -> Vec<u32> {
        counts.iter().copied().filter(|it| *it < most).collect()
    };
    let kernel_watches = within(&watches, limit("max_user_watches", 8192));
    let kernel_sessions = within(&sessions, limit("max_user_instances", 128));
    let changes = args.changes;
    let each = |counts: &[u32], bar: &ProgressBar, cost: fn(u32, u32) -> Result<Cost, Failure>| {
        let cost = |count: &u32| {
            bar.set_message(count.to_string());
            bar.inc(1);
            cost(*count, changes)
        };
        counts.iter().map(cost).collect::<Result<Vec<_>, _>>()
    };
    let found = [
        ("AgentFS", each(&watches, &bar, our_watches)?),
        (
            "kernel inotify",
            each(&kernel_watches, &bar, kernel_watches_of_one)?,
        ),
        ("AgentFS native", each(&sessions, &bar, our_sessions)?),
        (
            "kernel inotify",
            each(&kernel_sessions, &bar, kernel_instances)?,
        ),
    ];
    bar.finish_and_clear();
    Ok(part(&found))
}

/// Nanoseconds of each of `count`.
fn per(count: u32, work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(count))
}

/// A number below `count`, in an order without pattern.
fn scattered(at: u32, count: u32) -> u32 {
    // A prime: no number comes twice before most came.
    let index = u64::from(at) * 7_368_787 % u64::from(count);
    u32::try_from(index).unwrap_or(0)
}

/// One queue with many watches, in this process.
fn our_watches(count: u32, changes: u32) -> Result<Cost, Failure> {
    let core = FsCore::new(FsConfig::default())?;
    let service = Arc::new(WatchService::new(core.clone(), QueueLimits::default())?);
    core.subscribe_events(Arc::<WatchService>::clone(&service))?;
    let (branch, caller, session) = (core.branch(FsCore::MAIN)?, Caller::root(), SessionId(1));
    service.open_session(session, FsCore::MAIN);
    let opened = service.open_queue(session, QueueApi::Inotify, Capacity::new(1 << 20)?)?;
    let OpenedQueue { queue, ring, .. } = opened;
    let consumer = Consumer::open(ring)?;
    let nodes = directories(&branch, &caller, count)?;
    let interest = NodeInterest {
        mask: 0x4, // IN_ATTRIB
        mount: None,
        after: Seq(0),
    };
    let register = per(count, || {
        for (watch, node) in (1..).zip(&nodes) {
            service.watch_node(&queue, WatchId(watch), *node, interest)?;
        }
        Ok(())
    })?;
    let change = scatter(
        (changes, count),
        |index, at| {
            let node = nodes.get(index).ok_or("a node for each watch")?;
            let mode = agentfs_core::SetAttr {
                mode: Some(0o700 + at % 2),
                ..agentfs_core::SetAttr::default()
            };
            branch.setattr_node(&caller, *node, None, &mode)?;
            Ok(())
        },
        || pop(&consumer),
    )?;
    Ok(Cost {
        count,
        register,
        change,
        to_all: 0.0,
    })
}

/// Nanoseconds of each change, made all over `count` objects, and heard batch by batch.
fn scatter(
    (changes, count): (u32, u32),
    mut change: impl FnMut(usize, u32) -> Result<(), Failure>,
    mut hear: impl FnMut() -> Result<u64, Failure>,
) -> Result<f64, Failure> {
    let mut heard = 0;
    let each = per(changes, || {
        for at in 0..changes {
            change(usize::try_from(scattered(at, count))?, at)?;
            if (at + 1) % BATCH == 0 {
                heard += hear()?;
            }
        }
        heard += hear()?;
        Ok(())
    })?;
    if heard == 0 {
        return Err("nothing was heard".into());
    }
    Ok(each)
}

fn directories(branch: &Branch, caller: &Caller, count: u32) -> Result<Vec<NodeId>, Failure> {
    // A thousand in each, so that no directory is large.
    let mut nodes = Vec::new();
    for number in 0..count {
        let parent = format!("/{}", number / 1000);
        if number % 1000 == 0 {
            branch.mkdir(caller, &parent, 0o755)?;
        }
        nodes.push(
            branch
                .mkdir(caller, format!("{parent}/{number}"), 0o755)?
                .node,
        );
    }
    Ok(nodes)
}

fn pop(consumer: &Consumer) -> Result<u64, Failure> {
    let claim = consumer.claim(OwnerId::this_process(), |_| true);
    let mut claim = claim.ok_or("somebody else reads")?;
    let mut records = 0;
    while claim.next()?.is_some() {
        records += 1;
    }
    if claim.release() == Bell::Ring {
        return Err("more was unread than the ring holds".into());
    }
    Ok(records)
}

/// One instance with many watches.
fn kernel_watches_of_one(count: u32, changes: u32) -> Result<Cost, Failure> {
    let memory = tempfile::TempDir::new_in("/dev/shm")?;
    let mut paths = Vec::new();
    for number in 0..count {
        let parent = memory.path().join((number / 1000).to_string());
        if number % 1000 == 0 {
            std::fs::create_dir(&parent)?;
        }
        paths.push(parent.join(number.to_string()));
    }
    for path in &paths {
        std::fs::create_dir(path)?;
    }
    let instance = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let register = per(count, || {
        for path in &paths {
            instance.add_watch(path, AddWatchFlags::IN_ATTRIB)?;
        }
        Ok(())
    })?;
    let change = scatter(
        (changes, count),
        |index, at| {
            let path = paths.get(index).ok_or("a path for each watch")?;
            let mode = rustix::fs::Mode::from_raw_mode(0o700 + at % 2);
            Ok(rustix::fs::chmod(path, mode)?)
        },
        || Ok(drain(&instance)? as u64),
    )?;
    Ok(Cost {
        count,
        register,
        change,
        to_all: 0.0,
    })
}

/// Reads all there is; bytes.
fn drain(instance: &Inotify) -> Result<usize, Failure> {
    use std::os::fd::AsFd as _;
    let (mut buffer, mut total) = (vec![0; 1 << 16], 0);
    loop {
        match nix::unistd::read(instance.as_fd(), &mut buffer) {
            Ok(len) => total += len,
            Err(nix::errno::Errno::EAGAIN) => return Ok(total),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sessions with a directory each, and one that all watch.
fn our_sessions(count: u32, changes: u32) -> Result<Cost, Failure> {
    let place = Place::agentfs(false)?;
    prepare(&place, count)?;
    let socket = place.socket().ok_or("a daemon has a socket")?.to_owned();
    let mut readers = Vec::new();
    let register = per(count, || {
        for number in 0..count {
            let own = format!("/s{number}");
            let roots = [Path::new(&own), Path::new("/shared")];
            readers.push(NativeReader::open(&socket, &roots)?);
        }
        Ok(())
    })?;
    let mut heard = 0_u64;
    let mut look = |at: u32| readers[at as usize].take(&mut |_| heard += 1);
    sessions_cost(&place, (count, changes), register, &mut look)
}

/// Instances with a directory each, and one that all watch.
fn kernel_instances(count: u32, changes: u32) -> Result<Cost, Failure> {
    let place = Place::tmpfs()?;
    prepare(&place, count)?;
    let mut readers = Vec::new();
    let register = per(count, || {
        for number in 0..count {
            let instance = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            for root in [format!("s{number}"), "shared".to_owned()] {
                instance.add_watch(&place.seen_as(&root), AddWatchFlags::IN_MODIFY)?;
            }
            readers.push(instance);
        }
        Ok(())
    })?;
    let mut look = |at: u32| drain(&readers[at as usize]).map(drop);
    sessions_cost(&place, (count, changes), register, &mut look)
}

fn prepare(place: &Place, count: u32) -> Result<(), Failure> {
    let own = (0..count).map(|number| format!("s{number}"));
    for directory in own.chain(["shared".to_owned()]) {
        place.make_directory(&directory)?;
        for file in ["f0", "f1"] {
            place.make_file(&format!("{directory}/{file}"))?;
        }
    }
    Ok(())
}

type Look<'a> = &'a mut dyn FnMut(u32) -> Result<(), Failure>;

fn sessions_cost(
    place: &Place,
    (count, changes): (u32, u32),
    register: f64,
    look: Look<'_>,
) -> Result<Cost, Failure> {
    const TURN: u32 = 100;
    let middle = count / 2;
    let own = place.changer(&format!("s{middle}"), 2);
    let change = per(changes, || {
        for at in 0..changes {
            own.change(at)?;
            if (at + 1) % TURN == 0 {
                look(middle)?;
            }
        }
        Ok(())
    })?;
    // What all hear costs as much more as there are of them.
    let changes = (changes / count).max(TURN);
    let shared = place.changer("shared", 2);
    let to_all = per(changes, || {
        for at in 0..changes {
            shared.change(at)?;
            if (at + 1) % TURN == 0 {
                (0..count).try_for_each(&mut *look)?;
            }
        }
        Ok(())
    })?;
    Ok(Cost {
        count,
        register,
        change,
        to_all,
    })
}

/// Who tells, and what it cost with each number.
type Found<'a> = (&'a str, Vec<Cost>);

fn part(found: &[Found<'_>]) -> Part {
    let (watches, sessions) = found.split_at(found.len() / 2);
    let head = [
        "",
        "watches",
        "to register one",
        "for a change that one hears",
    ];
    let by_watches = grid("Nanoseconds, by watches of one queue", &head, watches);
    let head = [
        "",
        "sessions",
        "to register one",
        "for a change that one hears",
        "for a change that all hear",
    ];
    let by_sessions = grid("Nanoseconds, by sessions", &head, sessions);
    Part {
        name: "scale".to_owned(),
        title: "Scale".to_owned(),
        about: "Watches: one queue, each watch on a directory of its own, chmod of one after the \
                other without pattern; what is heard is read in this process every thousand \
                changes. Sessions: each is a connection with two trees to watch, or an inotify \
                instance with two directories; registering includes connecting. No mount is there."
            .to_owned(),
        tables: vec![by_watches, by_sessions],
        plots: vec![
            plot(
                "scale-change",
                "A change among many watches",
                watches,
                |it| it.change,
            ),
            plot("scale-register", "One more watch", watches, |it| {
                it.register
            }),
            plot(
                "scale-sessions",
                "A change that all sessions hear",
                sessions,
                |it| it.to_all,
            ),
        ],
        goals: Vec::new(),
        raw: serde_json::json!({ "watches": watches, "sessions": sessions }),
    }
}

fn plot(name: &str, title: &str, all: &[Found<'_>], of: fn(&Cost) -> f64) -> Plot {
    let points = |costs: &[Cost]| {
        costs
            .iter()
            .map(|it| (f64::from(it.count), of(it)))
            .collect()
    };
    let lines = all.iter().map(|(name, costs)| Line {
        name: (*name).to_owned(),
        points: points(costs),
    });
    Plot {
        name: name.to_owned(),
        title: title.to_owned(),
        x: if name == "scale-sessions" {
            "sessions"
        } else {
            "watches"
        }
        .to_owned(),
        y: "nanoseconds".to_owned(),
        lines: lines.collect(),
    }
}

fn grid(title: &str, head: &[&str], all: &[Found<'_>]) -> Grid {
    let mut grid = Grid::new(title, head);
    for (name, costs) in all {
        for it in costs {
            let figures = [it.register, it.change, it.to_all].map(short);
            let row = [(*name).to_owned(), it.count.to_string()];
            // As many figures as there are columns for them.
            grid.rows
                .push(row.into_iter().chain(figures).take(head.len()).collect());
        }
    }
    grid
}
