//! Runs minutes of random load with faults, and accounts for every change.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agentfs_testkit::daemon::private_directory;
use agentfs_testkit::program::Program;
use agentfs_testkit::random::Random;
use agentfs_testkit::shim;
use clap::Parser;
use nix::mount::{MntFlags, umount2};
use serde::Serialize;
use tempfile::TempDir;

use crate::check::{self, Account, Scope};
use crate::listener::Ear;
use crate::report::Report;
use crate::{Failure, actor, listener, truth};

/// How long a process may take for an answer: it may have to read very many events first.
const PATIENCE: Duration = Duration::from_secs(120);

/// Changes files at random for a time, with faults, and accounts for every change
///
/// Programs that listen are killed, the daemon is killed and started again, and some read slowly. At
/// the end every change was delivered to every listener, said by an event that was still unread,
/// delivered as part of a difference, or counted in an overflow; else the exit status is 1.
#[derive(Debug, Parser)]
#[command(
    name = "agentfs-soak",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
#[command(after_help = "Examples:
  agentfs-soak
  agentfs-soak --seconds 180 --seed 7")]
struct Cli {
    #[command(flatten)]
    args: Args,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How many seconds
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Makes a run that can be repeated, but for the timing of its processes
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Print JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

/// What this program does when the soak starts it again.
#[derive(Debug, clap::Subcommand)]
enum Part {
    #[command(hide = true)]
    Act(actor::Args),
    #[command(hide = true)]
    Listen(listener::Args),
}

/// Carries out the command line of this process.
pub(crate) fn main() -> Result<(), Failure> {
    let Cli { args, part } = Cli::parse();
    match part {
        Some(Part::Act(args)) => actor::run(&args),
        Some(Part::Listen(args)) => listener::run(&args),
        None => run(&args)?.print(&args),
    }
}

/// A process that listens from the beginning to the end.
struct Listening {
    name: &'static str,
    ear: Ear,
    log: PathBuf,
    process: Program,
    account: Account,
}

struct Soak {
    directory: TempDir,
    logs: TempDir,
    random: Random,
    faults: Faults,
}

/// Counts what was done to the other processes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Faults {
    pub(crate) daemons_killed: u64,
    pub(crate) daemons_ended: u64,
    pub(crate) listeners_killed: u64,
}

const LISTENERS: [(&str, Ear, bool); 4] = [
    ("native", Ear::Native, false),
    ("native, slow", Ear::Native, true),
    ("inotify", Ear::Inotify, false),
    ("inotify, slow", Ear::Inotify, true),
];

fn run(args: &Args) -> Result<Report, Failure> {
    let mut soak = Soak {
        directory: private_directory(),
        logs: TempDir::new_in("/dev/shm")?,
        random: Random::new(args.seed),
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
        let length = Duration::from_millis(1000 + soak.random.range(0..4000)).min(left);
        // The last daemon is heard to its end.
        let is_killed = soak.random.below(2) == 0 && length < left;
        changes += soak.life(length, is_killed, &mut listeners, &mut victims)?;
        lives += 1;
    }
    let accounts = listeners.into_iter().map(|it| (it.name, it.account));
    Ok(Report {
        changes,
        lives,
        faults: soak.faults,
        accounts: accounts.chain([("killed ones", victims)]).collect(),
    })
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
        let log = self.logs.path().join(format!("{}", self.random.next_u64()));
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
            .args(["--seed", &self.random.next_u64().to_string()])
            .args(is_slow.then_some("--slow"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--mount")
            .arg(self.mount())
            .arg("--log")
            .arg(&log);
        if ear == Ear::Inotify {
            command
                .env("LD_PRELOAD", shim::library())
                .env("AGENTFS_SOCKET", self.socket());
        }
        Ok(Listening {
            name,
            ear,
            log,
            process: Program::start_showing_errors(&mut command),
            account: Account::default(),
        })
    }

    /// Runs one daemon from its start to its end, and accounts for its changes. Returns how many
    /// changes were tried.
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
            listener.process.say("listen");
            expect(&listener.process, "listening")?;
        }
        actor.say("go");
        expect(&actor, "going")?;
        self.let_live(Instant::now() + length, &truth, victims)?;
        let mut changes = 0;
        if is_killed {
            actor.kill();
            self.faults.daemons_killed += 1;
            unmount(&self.mount());
            for listener in listeners.iter_mut() {
                if listener.ear == Ear::Inotify {
                    listener.process.say("gone");
                }
                expect(&listener.process, "gone")?;
            }
        } else {
            actor.say("stop");
            changes = answer(&actor)?.parse()?;
            for listener in &mut *listeners {
                expect(&listener.process, "ended")?;
            }
            // The actor's input ends, so the actor does.
            let (status, _, _) = actor.finish();
            if !status.success() {
                return Err(format!("the daemon's process ended with {status}").into());
            }
            self.faults.daemons_ended += 1;
            for listener in listeners.iter_mut().filter(|it| it.ear == Ear::Inotify) {
                listener.process.say("gone");
                expect(&listener.process, "gone")?;
            }
        }
        let scope = if is_killed {
            Scope::UntilKilled
        } else {
            Scope::Whole
        };
        let committed = truth::read_changes(&truth)?;
        for listener in &mut *listeners {
            let account = match listener.ear {
                Ear::Native => {
                    check::native(&committed, &truth::read_changes(&listener.log)?, scope)
                }
                Ear::Inotify => {
                    check::inotify(&committed, &truth::read_inotify(&listener.log)?, scope)
                }
            };
            listener.account.add(&account);
            // The listener appends to what is left.
            truncate(&listener.log)?;
        }
        std::fs::remove_file(&truth)?;
        Ok(changes.max(committed.len() as u64))
    }

    fn act(&mut self, truth: &Path) -> Result<Program, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["act", "--seed", &self.random.next_u64().to_string()])
            .arg("--socket")
            .arg(self.socket())
            .arg("--mount")
            .arg(self.mount())
            .arg("--log")
            .arg(truth);
        Ok(Program::start_showing_errors(&mut command))
    }

    /// Starts and kills listeners until the daemon is to end.
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
            victim.process.say("listen");
            expect(&victim.process, "listening")?;
            let left = until.saturating_duration_since(Instant::now());
            let life = Duration::from_millis(self.random.range(0..600));
            std::thread::sleep(life.min(left));
            victim.process.kill();
            self.faults.listeners_killed += 1;
            if ear == Ear::Native {
                let heard = truth::read_changes(&victim.log)?;
                let committed = truth::read_changes(truth)?;
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

fn answer(process: &Program) -> Result<String, Failure> {
    let line = process.line_within(PATIENCE);
    line.ok_or_else(|| format!("a process was silent for {PATIENCE:?}, or ended").into())
}

fn expect(process: &Program, line: &str) -> Result<(), Failure> {
    let found = answer(process)?;
    if found == line {
        Ok(())
    } else {
        Err(format!("a process of the soak says {found:?} instead of {line:?}").into())
    }
}

/// Takes away the mount that a killed daemon left.
fn unmount(mount: &Path) {
    if umount2(mount, MntFlags::MNT_DETACH).is_err() {
        // This process is not root, but fusermount3 can unmount what it mounted. If it does not,
        // the next daemon reports that.
        drop(
            Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(mount)
                .status(),
        );
    }
}
