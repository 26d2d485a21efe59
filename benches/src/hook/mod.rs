//! What the preloaded library costs a program, and how fast it delivers.
//!
//! `hook [--quick] [--json] [--only PART]`: parts are read, kevent, wake, sleep, mounted, register, idle. The measured programs
//! are this one, started again with the library preloaded, against a daemon that only fills rings,
//! and in `mounted` against the real one.

mod idle_wakeups;
mod kevent_wake;
mod measured_program;
mod mounted;
#[path = "../../../interpose/tests/it/scripted.rs"]
#[expect(dead_code, reason = "the shim's tests use all of it")]
#[expect(clippy::unwrap_used, reason = "a daemon for tests")]
mod scripted;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::process_pair::now;
use crate::report::table::{self, Ratio, Row, Table, machine};
use crate::statistics::Spread;
use scripted::{Scripted, event};

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if let Some((first, rest)) = args.split_first()
        && first == "--program"
    {
        return measured_program::run(rest);
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let quick = has("--quick");
    let only = args
        .iter()
        .position(|arg| arg == "--only")
        .and_then(|at| args.get(at + 1));
    let library = library()?;
    let mut tables = Vec::new();
    for (part, run) in [
        (
            "read",
            read as fn(&Path, bool) -> Result<Vec<Table>, Failure>,
        ),
        ("kevent", kevent),
        ("wake", wake),
        ("sleep", kevent_wake::sleep),
        ("mounted", mounted::mounted),
        ("register", register),
        ("idle", idle_wakeups::idle),
    ] {
        if only.is_none_or(|only| only == part) {
            writeln!(std::io::stderr(), "hook: {part}")?;
            tables.extend(run(&library, quick)?);
        }
    }
    let head = format!(
        "Machine: {}. Cells are medians (min to max) over the runs; ratios are taken round by \
         round.\n",
        machine()
    );
    Ok(table::findings(head, tables).print(has("--json"))?)
}

/// Builds the library as this program was built, and beside it the user-space kqueue.
fn library() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "bench"])
        .args(["--package", "agentfs-interpose-shim"])
        .args(["--package", "agentfs-testkq-preload"])
        .status()?;
    let library = program
        .parent()
        .unwrap_or(Path::new("."))
        .join("libagentfs_interpose_shim.so");
    if !status.success() || !library.exists() {
        return Err(format!("cargo did not build {}", library.display()).into());
    }
    Ok(library)
}

/// This program again, as the program that is measured.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(
        library: Option<&Path>,
        socket: Option<&Path>,
        args: &[&str],
    ) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hook", "--program"]).args(args);
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
        if let Some(socket) = socket {
            command
                .env("AGENTFS_SOCKET", socket)
                .env("AGENTFS_ANY_FILESYSTEM", "1");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("no standard input")?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn number(&mut self) -> Result<f64, Failure> {
        Ok(self.line()?.parse()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn row(what: &str, figures: &[f64], against: Option<(&str, &[f64], Option<f64>)>) -> Row {
    Row {
        what: what.to_owned(),
        note: String::new(),
        figure: Spread::of(figures.to_vec()),
        also: None,
        ratio: against.map(|(of, theirs, goal)| Ratio {
            of: of.to_owned(),
            spread: Spread::ratio(figures, theirs),
            goal,
        }),
    }
}

/// read() on descriptors that are none of ours.
fn read(library: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let rounds = if quick { "11" } else { "401" };
    let mut rows = Vec::new();
    for kind in ["zero", "eventfd"] {
        let mut program = Program::start(Some(library), None, &["read", kind, rounds])?;
        let mut text = String::new();
        program.stdout.read_to_string(&mut text)?;
        let pairs: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| {
                let (original, hooked) = line.split_once(' ')?;
                Some((original.parse().ok()?, hooked.parse().ok()?))
            })
            .collect();
        let (original, hooked): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        let name = format!("read() of {kind}");
        rows.push(row(&format!("{name}, libc"), &original, None));
        let against = Some(("libc", original.as_slice(), Some(1.01)));
        rows.push(row(&format!("{name}, hooked"), &hooked, against));
    }
    Ok(vec![Table {
        title: "A descriptor that is not ours".to_owned(),
        unit: "ns per call".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows,
    }])
}

/// kevent(), by the benchmark of the hooks' own package, where the kernel is the user-space kqueue of
/// the tests.
fn kevent(_: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["bench", "--quiet", "--package", "agentfs-interpose-shim"])
        .args(["--bench", "kevent", "--", "--raw"])
        .args(quick.then_some("--quick"));
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the benchmark of kevent() failed".into());
    }
    let mut cases: Vec<Sides> = Vec::new();
    for line in std::str::from_utf8(&output.stdout)?.lines() {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut field = || fields.next().ok_or("a line of the benchmark of kevent()");
        let names = [field()?, field()?, field()?];
        let times: [f64; 2] = [field()?.parse()?, field()?.parse()?];
        if cases.last().is_none_or(|it| it.names != names) {
            cases.push(Sides {
                names,
                times: Default::default(),
            });
        }
        let all = cases.last_mut().into_iter().flat_map(|it| &mut it.times);
        all.zip(times).for_each(|(all, time)| all.push(time));
    }
    let rows = cases.iter().flat_map(|case| {
        let [what, a, b] = &case.names;
        let goal = match what.as_str() {
            "no watch, nothing ready" | "no watch, one change" => Some(1.10),
            "a posted event" => Some(1.2),
            _ => None,
        };
        let [first, second] = &case.times;
        let against = Some((a.as_str(), first.as_slice(), goal));
        [
            row(&format!("{what}, {a}"), first, None),
            row(&format!("{what}, {b}"), second, against),
        ]
    });
    Ok(vec![Table {
        title: "kevent() on a user-space kqueue".to_owned(),
        unit: "ns per call".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows: rows.collect(),
    }])
}

/// Two sides of one case of the benchmark of kevent().
struct Sides {
    /// What, and the sides.
    names: [String; 3],
    times: [Vec<f64>; 2],
}

/// From the commit to the return of the program's read(), which sleeps.
fn wake(library: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let (rounds, wakes) = if quick { (3, 50) } else { (9, 1000) };
    let tree = tempfile::TempDir::new_in("/dev/shm")?;
    let daemon = Scripted::start(tree.path());
    let native = tempfile::TempDir::new_in("/dev/shm")?;
    let file = std::fs::File::create(native.path().join("file"))?;
    let rung = native.path().join("rung");
    std::fs::write(&rung, [1])?;
    let at = |path: &Path| path.to_string_lossy().into_owned();
    let mut ring = Program::start(
        Some(library),
        Some(&daemon.socket()),
        &["wake", "inotify", &at(tree.path())],
    )?;
    let mut kernel = Program::start(None, None, &["wake", "inotify", &at(native.path())])?;
    let bell = nix::sys::eventfd::EventFd::from_value(0)?;
    let mut eventfd = start_on_eventfd(&bell)?;
    let mut alone = Program::start(None, None, &["wake", "bell", &at(&rung)])?;
    let rung = std::fs::File::open(&rung)?;
    let mut medians = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let mut samples = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for number in 0..wakes {
            let [a, b, c, d] = &mut samples;
            let change = event(1, 2, format!("file{}", number % 2));
            a.push(woken(&mut ring, || {
                daemon.inject(1, std::slice::from_ref(&change));
                Ok(())
            })?);
            b.push(woken(&mut kernel, || {
                std::os::unix::fs::FileExt::write_at(&file, b"x", 0)?;
                Ok(())
            })?);
            c.push(woken(&mut eventfd, || {
                bell.write(1)?;
                Ok(())
            })?);
            d.push(woken(&mut alone, || {
                std::os::unix::fs::FileExt::read_at(&rung, &mut [0], 0)?;
                Ok(())
            })?);
        }
        for (medians, mut samples) in medians.iter_mut().zip(samples) {
            samples.sort_by(f64::total_cmp);
            medians.push(samples.get(wakes / 2).copied().unwrap_or_default());
        }
    }
    let [ours, kernel, eventfd, alone] = medians;
    let rows = vec![
        row("write() of an eventfd", &eventfd, None),
        row("kernel inotify, write() of a file", &kernel, None),
        row(
            "the bell alone: kernel inotify, read() of a file",
            &alone,
            Some(("eventfd", &eventfd, None)),
        ),
        row(
            "ring, against the bell alone",
            &ours,
            Some(("the bell", &alone, None)),
        ),
        row(
            "ring, against the eventfd",
            &ours,
            Some(("eventfd", &eventfd, Some(1.15))),
        ),
        row(
            "ring, against the kernel's inotify",
            &ours,
            Some(("inotify", &kernel, Some(1.0))),
        ),
    ];
    Ok(vec![Table {
        title: "From a change to the return of a read() that sleeps".to_owned(),
        unit: "microseconds".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows,
    }])
}

fn start_on_eventfd(bell: &nix::sys::eventfd::EventFd) -> Result<Program, Failure> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    // A copy that the program inherits.
    let copy = rustix::io::dup(bell.as_fd())?;
    let number = copy.as_raw_fd().to_string();
    Program::start(None, None, &["wake", "eventfd", &number])
}

/// Microseconds from `fire` to when the program has read.
fn woken(
    program: &mut Program,
    fire: impl FnOnce() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    program.stdin.write_all(b"\n")?;
    program.line()?;
    // It says so and then reads: time to fall asleep, of which nothing tells. Too little would show
    // as a quicker wake, never as a lost one.
    std::thread::sleep(Duration::from_micros(200));
    let start = now();
    fire()?;
    let end: u64 = program.line()?.parse()?;
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a wake")]
    Ok(end.saturating_sub(start) as f64 / 1000.0)
}

/// inotify_add_watch, ten thousand times.
fn register(library: &Path, quick: bool) -> Result<Vec<Table>, Failure> {
    let (rounds, count) = if quick { (2, 1000) } else { (9, 10_000) };
    let tree = tempfile::TempDir::new_in("/dev/shm")?;
    for number in 0..count {
        std::fs::create_dir(tree.path().join(number.to_string()))?;
    }
    let path = tree.path().to_string_lossy().into_owned();
    let args = ["register", &path, &count.to_string()].map(str::to_owned);
    let args = args.each_ref().map(String::as_str);
    let (mut alone, mut elsewhere, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(Program::start(None, None, &args)?.number()?);
        elsewhere.push(Program::start(Some(library), None, &args)?.number()?);
        let daemon = Scripted::start(tree.path());
        ours.push(Program::start(Some(library), Some(&daemon.socket()), &args)?.number()?);
        let registered = daemon.registrations().len();
        if registered < count {
            return Err(format!("{registered} of {count} watches were registered").into());
        }
    }
    let rows = vec![
        row("without the library", &alone, None),
        row(
            "with it, not on AgentFS",
            &elsewhere,
            Some(("without", &alone, None)),
        ),
        row(
            "with it, on AgentFS",
            &ours,
            Some(("without", &alone, Some(2.0))),
        ),
    ];
    Ok(vec![Table {
        title: format!("{count} calls of inotify_add_watch"),
        unit: "microseconds per call".to_owned(),
        also: String::new(),
        further: Vec::new(),
        rows,
    }])
}
