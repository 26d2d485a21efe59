//! A process that listens and records what it hears: it must be there whatever becomes of the
//! daemon, and may be killed itself.

use std::fs::File;
use std::io::{BufRead as _, BufWriter, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentfs_client::{Deadline, Subscription, SubscriptionError, SubscriptionOptions};
use agentfs_proto::record::{EventRef, Kind, flags};
use agentfs_testkit::random::Random;
use clap::ValueEnum;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Failure;
use crate::actor::{DIRECTORIES, END};
use crate::truth::{ATTRIBUTES, DIRECTORY, GO, HEALED, InotifyEvent, LoggedChange};

/// The way in which the listener listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Ear {
    Native,
    Inotify,
}

/// What the parent asks for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    ear: Ear,
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    mount: PathBuf,
    #[arg(long)]
    log: PathBuf,
    /// Sleeps now and then before it reads.
    #[arg(long)]
    slow: bool,
    #[arg(long)]
    seed: u64,
}

struct Listener {
    log: BufWriter<File>,
    pace: Pace,
}

/// How quickly the listener reads.
struct Pace {
    is_slow: bool,
    random: Random,
}

impl Pace {
    fn pause(&mut self) {
        if self.is_slow && self.random.below(8) == 0 {
            std::thread::sleep(Duration::from_millis(self.random.range(0..300)));
        }
    }
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Listens once for each command, until the end of the changes or of the daemon.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut listener = Listener {
        log: BufWriter::new(File::options().create(true).append(true).open(&args.log)?),
        pace: Pace {
            is_slow: args.slow,
            random: Random::new(args.seed),
        },
    };
    match args.ear {
        Ear::Native => {
            for command in std::io::stdin().lines() {
                drop(command?);
                listener.native(&args.socket)?;
            }
            Ok(())
        }
        Ear::Inotify => listener.inotify(&args.mount),
    }
}

impl Listener {
    fn begin(&mut self) -> Result<(), Failure> {
        writeln!(self.log, "{GO}")?;
        self.log.flush()?;
        say("listening")
    }

    fn native(&mut self, socket: &Path) -> Result<(), Failure> {
        let options = SubscriptionOptions::new()
            .program("soak")
            .socket(socket)
            .ring_capacity(1 << 16);
        let mut subscription = options.open()?;
        self.begin()?;
        loop {
            if self.take(&mut subscription)? {
                return say("ended");
            }
            match subscription.wait(Deadline::NEVER) {
                Ok(_) => {}
                Err(SubscriptionError::DaemonGone) => return say("gone"),
                Err(error) => return Err(error.into()),
            }
            self.pace.pause();
        }
    }

    /// Records what is in the ring; returns whether the end is among it.
    fn take(&mut self, subscription: &mut Subscription) -> Result<bool, Failure> {
        let mut is_over = false;
        let mut lines = String::new();
        subscription.drain(|event| {
            let change = change(event);
            is_over |= change.kind == "created" && change.path.ends_with(&format!("/{END}"));
            lines += &change.line();
        })?;
        self.log.write_all(lines.as_bytes())?;
        self.log.flush()?;
        Ok(is_over)
    }

    /// Listens with one instance as a program does, and watches anew at each command.
    fn inotify(&mut self, mount: &Path) -> Result<(), Failure> {
        let instance = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let stdin = std::io::stdin();
        let mut commands = stdin.lock();
        let mut watched: Vec<(i32, &str)> = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut fds = [
                PollFd::new(instance.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::NONE)?;
            let is_commanded = fds[1].any().unwrap_or(false);
            let is_over = self.read(&instance, &watched, &mut buffer)?;
            if is_over {
                say("ended")?;
            }
            if is_commanded {
                let mut command = String::new();
                if commands.read_line(&mut command)? == 0 {
                    return Ok(());
                }
                if command.trim() == "gone" {
                    while self.read(&instance, &watched, &mut buffer)? {}
                    watched.clear();
                    say("gone")?;
                    continue;
                }
                watched = watch(&instance, mount)?;
                // This reads what is left of the last daemon, and the event that there was another
                // one.
                self.read(&instance, &[], &mut buffer)?;
                self.begin()?;
            }
            self.pace.pause();
        }
    }

    /// Records what can be read now; returns whether the end is among it.
    fn read(
        &mut self,
        instance: &Inotify,
        watched: &[(i32, &str)],
        buffer: &mut [u8],
    ) -> Result<bool, Failure> {
        const IGNORED: u32 = 0x8000;
        const UNMOUNT: u32 = 0x2000;
        let mut is_over = false;
        loop {
            let len = match nix::unistd::read(instance.as_fd(), buffer) {
                Ok(len) => len,
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for (wd, mask, name) in events(buffer.get(..len).unwrap_or_default()) {
                let dir = watched.iter().find(|it| it.0 == wd).map_or("", |it| it.1);
                let is_of_former = dir.is_empty() && wd != -1;
                if is_of_former || mask & (IGNORED | UNMOUNT) != 0 {
                    continue;
                }
                is_over |= name == END;
                let event = InotifyEvent {
                    dir: dir.to_owned(),
                    mask,
                    name,
                };
                self.log.write_all(event.line().as_bytes())?;
            }
        }
        self.log.flush()?;
        Ok(is_over)
    }
}

fn watch<'a>(instance: &Inotify, mount: &Path) -> Result<Vec<(i32, &'a str)>, Failure> {
    let mask = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_MOVE;
    let mut watched = Vec::new();
    for directory in DIRECTORIES {
        let path = mount.join(directory);
        let descriptor = instance
            .add_watch(&path, mask)
            .map_err(|error| format!("watching {}: {error}", path.display()))?;
        watched.push((number(descriptor), directory));
    }
    Ok(watched)
}

/// Returns the wd as the kernel gave it, which nix hides.
fn number(descriptor: nix::sys::inotify::WatchDescriptor) -> i32 {
    let text = format!("{descriptor:?}");
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

/// Returns wd, mask and name of every event of a read.
fn events(mut rest: &[u8]) -> Vec<(i32, u32, String)> {
    const HEAD: usize = 16;
    let mut all = Vec::new();
    while let Some((head, tail)) = rest.split_at_checked(HEAD) {
        let word = |at: usize| {
            let bytes = head.get(at..).and_then(|it| it.first_chunk());
            bytes.map_or(0, |it| u32::from_ne_bytes(*it))
        };
        let Some((name, next)) = tail.split_at_checked(word(12) as usize) else {
            break;
        };
        rest = next;
        let end = name.iter().position(|it| *it == 0).unwrap_or(name.len());
        let name = String::from_utf8_lossy(name.get(..end).unwrap_or_default());
        all.push((word(0).cast_signed(), word(4), name.into_owned()));
    }
    all
}

fn change(event: &EventRef<'_>) -> LoggedChange {
    let (head, text) = (event.head(), |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).into_owned()
    });
    let marks = [
        (flags::DIRECTORY, DIRECTORY),
        (flags::ATTRIBUTES, ATTRIBUTES),
        (flags::HEALED, HEALED),
    ];
    LoggedChange {
        seq: head.seqno,
        kind: match head.kind {
            Kind::OVERFLOW => "overflow".to_owned(),
            kind => kind.to_string(),
        },
        marks: marks
            .iter()
            .filter(|it| head.flags & it.0 != 0)
            .map(|it| it.1)
            .collect(),
        path: text(event.path()),
        to: text(event.aux()),
    }
}
