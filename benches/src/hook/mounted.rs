//! From a change that is made outside a mount to the return of a read() that sleeps in it: the
//! kernel's caches are made to forget what changed before the program is told.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::report::table::Table;
use agentfs_client::{Client, Deadline};
use agentfs_core::event::{EventKind, EventSink};
use agentfs_core::{Branch, Caller, FsConfig, FsCore, HandleId, OpenFlags};
use agentfs_daemon::{Config, Daemon, EchoMode};
use agentfs_mount::{MountHandle, MountOptions, Mounts};
use agentfs_proto::message::{Hello, Mount};
use tempfile::TempDir;

use super::{Program, row, start_on_eventfd, woken};
use crate::Failure;

const FILE: &str = "file";

/// A file of a branch, open to write from outside.
struct Written {
    branch: Branch,
    handle: HandleId,
}

impl Written {
    fn new(branch: Branch) -> Result<Self, Failure> {
        let root = Caller::root();
        let (flags, path) = (
            OpenFlags::WRITE_ONLY | OpenFlags::CREATE,
            format!("/{FILE}"),
        );
        let handle = branch.open(&root, &path, flags, 0o644)?;
        Ok(Self { branch, handle })
    }

    fn write(&self) -> Result<(), Failure> {
        self.branch
            .write_at(&Caller::root(), self.handle, 0, b"x")?;
        Ok(())
    }
}

/// The daemon, in this process, with a mount.
struct Told {
    written: Written,
    point: TempDir,
    daemon: Daemon,
    _directory: TempDir,
}

impl Told {
    fn start(echo: EchoMode) -> Result<Self, Failure> {
        let private = std::fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new().permissions(private).tempdir()?;
        let mut config = Config::new(directory.path().join("control.sock"));
        config.echo = echo;
        let daemon = Daemon::start(config)?;
        let written = Written::new(daemon.core().branch(FsCore::MAIN)?)?;
        let point = TempDir::new()?;
        let soon = Deadline::after(Duration::from_secs(30));
        let (mut client, _) = Client::connect(daemon.socket(), Hello::new("hook"), soon)?;
        let request = Mount {
            branch: String::new(),
            path: point.path().into(),
        };
        client.call(request, soon)?;
        Ok(Self {
            written,
            point,
            daemon,
            _directory: directory,
        })
    }

    fn watcher(&self, library: &Path) -> Result<Program, Failure> {
        let point = self.point.path().to_string_lossy();
        let words = ["wake", "inotify", &*point];
        Program::start(Some(library), Some(self.daemon.socket()), &words)
    }

    /// Microseconds until the program has read.
    fn woken(&self, program: &mut Program) -> Result<f64, Failure> {
        // So that there is something to forget.
        std::fs::read(self.point.path().join(FILE))?;
        woken(program, || self.written.write())
    }
}

/// Two filesystems of which nobody is told, one with a mount: what a write takes longer there is
/// what making the kernel forget takes.
struct Forgetting {
    written: Written,
    unmounted: Written,
    _mount: MountHandle,
    point: TempDir,
    _mounts: Mounts,
}

/// The events are made in both.
struct Nobody;

impl EventSink for Nobody {
    fn on_event(&self, _: &EventKind) {}
}

impl Forgetting {
    fn start() -> Result<Self, Failure> {
        let (fs, other) = (
            FsCore::new(FsConfig::default())?,
            FsCore::new(FsConfig::default())?,
        );
        let mounts = Mounts::new(&fs)?;
        other.subscribe_events(Arc::new(Nobody))?;
        let written = Written::new(fs.branch(FsCore::MAIN)?)?;
        let unmounted = Written::new(other.branch(FsCore::MAIN)?)?;
        let point = TempDir::new()?;
        let mount = mounts.mount(FsCore::MAIN, point.path(), &MountOptions::default())?;
        Ok(Self {
            written,
            unmounted,
            _mount: mount,
            point,
            _mounts: mounts,
        })
    }

    fn microseconds(&self) -> Result<f64, Failure> {
        std::fs::read(self.point.path().join(FILE))?;
        // As long as a reader is given to fall asleep, so that the processor is as idle.
        std::thread::sleep(Duration::from_micros(200));
        let start = Instant::now();
        self.written.write()?;
        let mounted = start.elapsed();
        let start = Instant::now();
        self.unmounted.write()?;
        Ok((mounted.as_secs_f64() - start.elapsed().as_secs_f64()) * 1e6)
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn mounted(library: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let (rounds, wakes) = if quick { (3, 50) } else { (9, 1000) };
    let forgetting = Forgetting::start()?;
    let (told, plain) = (Told::start(EchoMode::Auto)?, Told::start(EchoMode::Never)?);
    let (mut ours, mut without) = (told.watcher(library)?, plain.watcher(library)?);
    let native = TempDir::new_in("/dev/shm")?;
    let file = std::fs::File::create(native.path().join(FILE))?;
    let mut kernel = Program::start(
        None,
        None,
        &["wake", "inotify", &native.path().to_string_lossy()],
    )?;
    let bell = nix::sys::eventfd::EventFd::from_value(0)?;
    let mut eventfd = start_on_eventfd(&bell)?;
    let mut medians: [Vec<f64>; 5] = Default::default();
    for _ in 0..rounds {
        let mut samples: [Vec<f64>; 5] = Default::default();
        for _ in 0..wakes {
            let [a, b, c, d, e] = &mut samples;
            a.push(told.woken(&mut ours)?);
            e.push(plain.woken(&mut without)?);
            b.push(forgetting.microseconds()?);
            c.push(woken(&mut eventfd, || Ok(bell.write(1).map(drop)?))?);
            d.push(woken(&mut kernel, || {
                std::os::unix::fs::FileExt::write_at(&file, b"x", 0)?;
                Ok(())
            })?);
        }
        for (medians, samples) in medians.iter_mut().zip(&mut samples) {
            medians.push(median(samples));
        }
    }
    let [ours, forgetting, eventfd, kernel, without] = medians;
    let with = |alone: &[f64]| -> Vec<f64> {
        let pairs = alone.iter().zip(&forgetting);
        pairs.map(|(alone, more)| alone + more).collect()
    };
    let (bare, native) = (with(&eventfd), with(&kernel));
    let (name, other) = ("eventfd and invalidation", "inotify and invalidation");
    let what = "a change from outside, heard in the mount";
    let rows = vec![
        row("write() of an eventfd", &eventfd, None),
        row("kernel inotify, write() of a file", &kernel, None),
        row("invalidation of the file alone", &forgetting, None),
        row(what, &ours, Some((name, &bare, Some(1.15)))),
        row(what, &ours, Some((other, &native, Some(1.0)))),
        row(
            "the same, --echo never",
            &without,
            Some((name, &bare, None)),
        ),
    ];
    Ok(vec![Table {
        title: "From a change outside a mount to the return of a read() that sleeps in it"
            .to_owned(),
        unit: "microseconds".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows,
    }])
}
