//! Minutes of random load with faults, and an account of every change.

pub(crate) mod actor;
mod check;
mod difference;
pub(crate) mod listener;
mod random;
mod truth;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agentfs_benches::Spread;
use agentfs_benches::goal::Goal;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use tempfile::TempDir;

use self::check::{Account, Scope};
use self::listener::Ear;
use self::random::Random;
use crate::cli::Progress;
use crate::model::{Failure, Grid, Part, float};
use crate::program::{Process, library};
use crate::stage::private_directory;

/// Changes files at random for a time, with faults, and accounts for every change
///
/// Programs that listen are killed, the daemon is killed and started again, and some read slowly. At
/// the end every change was told to every listener, said by an event that was still unread, told as
/// part of a difference, or counted in an overflow; else the exit status is 1.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  agentfs-bench soak
  agentfs-bench soak --seconds 180 --seed 7")]
pub(crate) struct Args {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Makes a run that can be repeated, but for the timing of its processes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A process that listens all the time.
struct Listening {
    name: &'static str,
    ear: Ear,
    log: PathBuf,
    process: Process,
    account: Account,
}

struct Soak {
    directory: TempDir,
    logs: TempDir,
    random: Random,
    faults: Faults,
}

/// What was done to the others.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Faults {
    daemons_killed: u64,
    daemons_ended: u64,
    listeners_killed: u64,
}

const LISTENERS: [(&str, Ear, bool); 4] = [
    ("native", Ear::Native, false),
    ("native, slow", Ear::Native, true),
    ("inotify", Ear::Inotify, false),
    ("inotify, slow", Ear::Inotify, true),
];

pub(crate) fn run(args: &Args, progress: &Progress) -> Result<Part, Failure> {
    let bar = progress.bar("soak", args.seconds);
    let mut soak = Soak {
        directory: private_directory()?,
        logs: TempDir::new_in("/dev/shm")?,
        random: Random(args.seed),
        faults: Faults::default(),
    };
    std::fs::create_dir(soak.mount())?;
    let mut listeners = LISTENERS
        .iter()
        .map(|(name, ear, is_slow)| soak.listen(name, *ear, *is_slow))
        .collect::<Result<Vec<_>, _>>()?;
    let (start, whole) = (Instant::now(), Duration::from_secs(args.seconds));
    let (mut changes, mut lives, mut victims) = (0, 0, Account::default());
    while start.elapsed() < whole {
        let left = whole.saturating_sub(start.elapsed());
        let length = Duration::from_millis(1000 + soak.random.below(4000)).min(left);
        // The last one is heard to its end.
        let is_killed = soak.random.below(2) == 0 && length < left;
        changes += soak.life(length, is_killed, &mut listeners, &mut victims)?;
        lives += 1;
        bar.set_position(start.elapsed().as_secs());
    }
    bar.finish_and_clear();
    report(args, &soak, (changes, lives), &listeners, &victims)
}

impl Soak {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    fn mount(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// Starts a process that will listen.
    fn listen(
        &mut self,
        name: &'static str,
        ear: Ear,
        is_slow: bool,
    ) -> Result<Listening, Failure> {
        let log = self.logs.path().join(format!("{}", self.random.next()));
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([
                "listen",
                "--ear",
                if ear == Ear::Native {
                    "native"
                } else {
                    "inotify"
                },
            ])
            .args(["--seed", &self.random.next().to_string()])
            .args(is_slow.then_some("--slow"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--mount")
            .arg(self.mount())
            .arg("--log")
            .arg(&log);
        if ear == Ear::Inotify {
            command
                .env("LD_PRELOAD", library("libagentfs_interpose_shim.so")?)
                .env("AGENTFS_SOCKET", self.socket());
        }
        Ok(Listening {
            name,
            ear,
            log,
            process: Process::start(command)?,
            account: Account::default(),
        })
    }

    /// One daemon from its start to its end, and the account of it. How many changes were tried.
    fn life(
        &mut self,
        length: Duration,
        is_killed: bool,
        listeners: &mut [Listening],
        victims: &mut Account,
    ) -> Result<u64, Failure> {
        let truth = self.logs.path().join("truth");
        let mut actor = self.act(&truth)?;
        expect(&actor, "ready")?;
        for listener in &mut *listeners {
            listener.process.say("listen")?;
            expect(&listener.process, "listening")?;
        }
        actor.say("go")?;
        expect(&actor, "going")?;
        self.let_live(Instant::now() + length, &truth, victims)?;
        let mut changes = 0;
        if is_killed {
            actor.kill();
            self.faults.daemons_killed += 1;
            wait_until_unmounted(&self.mount())?;
            for listener in listeners.iter_mut() {
                if listener.ear == Ear::Inotify {
                    listener.process.say("gone")?;
                }
                expect(&listener.process, "gone")?;
            }
        } else {
            actor.say("stop")?;
            changes = actor.answer()?.parse()?;
            for listener in &mut *listeners {
                expect(&listener.process, "ended")?;
            }
            // Its input ends, so it does.
            actor.end()?;
            self.faults.daemons_ended += 1;
            for listener in listeners.iter_mut().filter(|it| it.ear == Ear::Inotify) {
                listener.process.say("gone")?;
                expect(&listener.process, "gone")?;
            }
        }
        let scope = if is_killed {
            Scope::UntilKilled
        } else {
            Scope::Whole
        };
        let committed = truth::read_told(&truth)?;
        for listener in &mut *listeners {
            let account = match listener.ear {
                Ear::Native => check::native(&committed, &truth::read_told(&listener.log)?, scope),
                Ear::Inotify => {
                    check::inotify(&committed, &truth::read_inotify(&listener.log)?, scope)
                }
            };
            listener.account.add(&account);
            // It appends to what is left.
            truncate(&listener.log)?;
        }
        std::fs::remove_file(&truth)?;
        Ok(changes.max(committed.len() as u64))
    }

    fn act(&mut self, truth: &Path) -> Result<Process, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["act", "--seed", &self.random.next().to_string()])
            .arg("--socket")
            .arg(self.socket())
            .arg("--mount")
            .arg(self.mount())
            .arg("--log")
            .arg(truth);
        Process::start(command)
    }

    /// Meanwhile, listeners come and are killed.
    fn let_live(
        &mut self,
        until: Instant,
        truth: &Path,
        victims: &mut Account,
    ) -> Result<(), Failure> {
        while Instant::now() < until {
            let ear = if self.random.below(2) == 0 {
                Ear::Native
            } else {
                Ear::Inotify
            };
            let is_slow = self.random.below(2) == 0;
            let mut victim = self.listen("killed", ear, is_slow)?;
            victim.process.say("listen")?;
            expect(&victim.process, "listening")?;
            let left = until.saturating_duration_since(Instant::now());
            let life = Duration::from_millis(self.random.below(600));
            std::thread::sleep(life.min(left));
            victim.process.kill();
            self.faults.listeners_killed += 1;
            if ear == Ear::Native {
                let heard = truth::read_told(&victim.log)?;
                let committed = truth::read_told(truth)?;
                victims.add(&check::native(&committed, &heard, Scope::Between));
            }
            std::fs::remove_file(&victim.log)?;
        }
        Ok(())
    }
}

fn truncate(log: &Path) -> Result<(), Failure> {
    File::options().write(true).open(log)?.set_len(0)?;
    Ok(())
}

fn expect(process: &Process, line: &str) -> Result<(), Failure> {
    let found = process.answer()?;
    if found == line {
        Ok(())
    } else {
        Err(format!("a process of the soak says {found:?} instead of {line:?}").into())
    }
}

/// The guardian of a killed daemon takes its mount away. To do the same meanwhile would let it find
/// the next daemon's mount at that place, and take that.
fn wait_until_unmounted(mount: &Path) -> Result<(), Failure> {
    const GUARDIAN: Duration = Duration::from_secs(30);
    let table = "/proc/self/mountinfo";
    // proc_pid_mountinfo(5): a change of the mounts is an exceptional condition.
    let (changes, end) = (File::open(table)?, Instant::now() + GUARDIAN);
    let is_mounted = || -> Result<bool, Failure> {
        let mounts = std::fs::read_to_string(table)?;
        Ok(mounts
            .lines()
            .any(|line| line.split(' ').nth(4) == mount.to_str()))
    };
    while is_mounted()? {
        if Instant::now() > end {
            unmount(mount);
            return Ok(());
        }
        let mut polled = [PollFd::new(changes.as_fd(), PollFlags::POLLPRI)];
        poll(&mut polled, PollTimeout::from(500_u16))?;
    }
    Ok(())
}

/// Takes away the mount that a killed daemon left.
fn unmount(mount: &Path) {
    if umount2(mount, MntFlags::MNT_DETACH).is_err() {
        // Not root: what mounted it can unmount it. If not, the next daemon says so.
        drop(
            Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(mount)
                .status(),
        );
    }
}

/// Nothing went unheard.
fn goals(all: &[(&str, &Account)]) -> Vec<Goal> {
    let goals = all.iter().map(|(name, it)| {
        let lost = Spread::of(vec![float(it.unaccounted)]);
        Goal::at_most(0.0, "changes", format!("unaccounted for: {name}"), lost)
    });
    goals.collect()
}

fn report(
    args: &Args,
    soak: &Soak,
    (changes, lives): (u64, u64),
    listeners: &[Listening],
    victims: &Account,
) -> Result<Part, Failure> {
    let head = [
        "listener",
        "told",
        "coalesced",
        "in differences",
        "in overflows",
        "lost with a killed daemon",
        "unaccounted",
    ];
    let title = format!("What became of {changes} changes, {lives} daemons");
    let mut table = Grid::new(title, &head);
    let accounts = listeners.iter().map(|it| (it.name, &it.account));
    let all: Vec<(&str, &Account)> = accounts.chain([("killed ones", victims)]).collect();
    for (name, it) in &all {
        let counts = [
            it.delivered,
            it.coalesced,
            it.healed,
            it.overflowed,
            it.died,
            it.unaccounted,
        ];
        let row = [(*name).to_owned()].into_iter();
        table
            .rows
            .push(row.chain(counts.map(|it| it.to_string())).collect());
    }
    let broken = all.iter().filter(|(_, it)| !it.is_clean());
    let complaints: Vec<String> = broken
        .flat_map(|(name, it)| {
            it.complaints
                .iter()
                .map(move |text| format!("{name}: {text}"))
        })
        .collect();
    for complaint in &complaints {
        writeln!(std::io::stderr(), "{complaint}")?;
    }
    if !complaints.is_empty() {
        return Err(format!("not every change is accounted for; --seed {}", args.seed).into());
    }
    let Faults {
        daemons_killed,
        daemons_ended,
        listeners_killed,
    } = soak.faults;
    Ok(Part {
        name: "soak".to_owned(),
        title: "Soak".to_owned(),
        about: format!(
            "Random changes for {} s, seed {}. {daemons_killed} daemons were killed and \
             {daemons_ended} ended, {listeners_killed} listeners were killed.",
            args.seconds, args.seed
        ),
        tables: vec![table],
        plots: Vec::new(),
        goals: goals(&all),
        raw: serde_json::json!({
            "changes": changes,
            "lives": lives,
            "faults": soak.faults,
            "accounts": all,
        }),
    })
}
