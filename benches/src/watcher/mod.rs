//! Programs that watch: this program again, in processes of their own.
//!
//! A watcher knows nothing of AgentFS but as a native subscriber; what it hears depends on what is
//! preloaded into it.

mod eventfd;
mod inotify;
mod kqueue;
mod native;
mod spawn;

use std::io::{BufRead as _, StdinLock, Write as _};
use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use self::inotify::InotifyReader;
use self::kqueue::KqueueReader;
pub(crate) use self::native::NativeReader;
pub(crate) use self::spawn::{Task, Watcher};
use crate::Failure;
use crate::child::WAITING;
use crate::process_pair::now;
use crate::usage::Usage;

/// What the program calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Api {
    Inotify,
    Kqueue,
    Native,
    /// An eventfd, which is its standard error: the one descriptor that a child gets without unsafe
    /// code and that nothing else needs.
    Eventfd,
}

/// What the program does between events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reader {
    /// Sleeps in poll(2), and reads as soon as it wakes
    Asleep,
    /// Sleeps in poll(2), and works until the burst is over before it reads
    Late,
    /// Never sleeps: looks again and again
    Busy,
}

impl Reader {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Late => "reading when the burst is over",
            Self::Busy => "never asleep",
        }
    }
}

/// What the parent asks for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    api: Api,
    /// The directory: files f0, f1 and so on, and `end`.
    #[arg(long)]
    root: PathBuf,
    #[arg(long)]
    files: u32,
    #[arg(long)]
    reader: Reader,
    /// One answer for each event, with its time.
    #[arg(long)]
    each: bool,
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// What a watcher heard of a burst.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Events it got, but for the end.
    pub(crate) events: u64,
    /// Files of which it heard.
    pub(crate) files: u64,
    /// Overflows that it heard of.
    pub(crate) overflows: u64,
    /// Calls that returned events.
    pub(crate) reads: u64,
    /// When it heard of the end: nanoseconds on the monotonic clock.
    pub(crate) ended: u64,
    /// What it used from the start to the end.
    pub(crate) usage: Usage,
}

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    File(u32),
    End,
    Overflow,
}

impl Heard {
    fn named(name: &[u8]) -> Option<Self> {
        if name == b"end" {
            return Some(Self::End);
        }
        let digits = std::str::from_utf8(name.strip_prefix(b"f")?).ok()?;
        digits.parse().ok().map(Self::File)
    }
}

/// A queue, whatever its kind.
enum Source {
    Inotify(InotifyReader),
    Kqueue(KqueueReader),
    Native(NativeReader),
    Eventfd,
}

impl Source {
    fn open(args: &Args) -> Result<Self, Failure> {
        Ok(match args.api {
            Api::Inotify => Self::Inotify(InotifyReader::open(&args.root)?),
            Api::Kqueue => Self::Kqueue(KqueueReader::open(&args.root, args.files)?),
            Api::Native => {
                let socket = args
                    .socket
                    .as_deref()
                    .ok_or("a subscriber needs a socket")?;
                Self::Native(NativeReader::open(socket, &[&args.root])?)
            }
            Api::Eventfd => Self::Eventfd,
        })
    }

    /// Sleeps until there is something to read.
    fn wait(&mut self) -> Result<(), Failure> {
        match self {
            Self::Inotify(it) => it.wait(),
            Self::Kqueue(it) => it.wait(),
            Self::Native(it) => it.wait(),
            Self::Eventfd => eventfd::wait(),
        }
    }

    /// Takes what one call returns, without sleeping.
    fn take(&mut self, hear: &mut dyn FnMut(Heard)) -> Result<(), Failure> {
        match self {
            Self::Inotify(it) => it.take(hear),
            Self::Kqueue(it) => it.take(hear),
            Self::Native(it) => it.take(hear),
            Self::Eventfd => eventfd::take(hear),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut source = Source::open(args)?;
    say("ready")?;
    let mut commands = std::io::stdin().lock();
    if args.each {
        each(&mut source, args.reader, &mut commands)
    } else {
        burst(&mut source, args, &mut commands)
    }
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Waits for the next command, and returns whether there is one: none when the parent is gone.
fn command(commands: &mut StdinLock<'_>) -> Result<bool, Failure> {
    Ok(commands.read_line(&mut String::new())? > 0)
}

/// Hears one burst, which starts at a command and ends with the event of the file `end`.
fn burst(source: &mut Source, args: &Args, commands: &mut StdinLock<'_>) -> Result<(), Failure> {
    let mut is_heard = vec![false; usize::try_from(args.files)?];
    let mut tally = Tally::default();
    if !command(commands)? {
        return Ok(());
    }
    let before = Usage::of_process();
    let mut is_late = args.reader == Reader::Late;
    while tally.ended == 0 {
        match args.reader {
            Reader::Busy => std::thread::yield_now(),
            Reader::Asleep | Reader::Late => source.wait()?,
        }
        if std::mem::take(&mut is_late) && !command(commands)? {
            return Ok(());
        }
        let before = (tally.events, tally.ended);
        source.take(&mut |heard| match heard {
            Heard::File(index) => {
                tally.events += 1;
                if let Some(place) = is_heard.get_mut(index as usize) {
                    *place = true;
                }
            }
            Heard::End => tally.ended = now(),
            Heard::Overflow => tally.overflows += 1,
        })?;
        tally.reads += u64::from(before != (tally.events, tally.ended));
    }
    tally.usage = Usage::of_process().since(before);
    tally.files = is_heard.iter().filter(|it| **it).count().try_into()?;
    say(&serde_json::to_string(&tally)?)
}

/// Answers each command twice: that it is about to wait, and then when it had the event.
fn each(source: &mut Source, reader: Reader, commands: &mut StdinLock<'_>) -> Result<(), Failure> {
    while command(commands)? {
        say(WAITING)?;
        let mut woken = 0;
        while woken == 0 {
            if reader != Reader::Busy {
                source.wait()?;
            }
            source.take(&mut |_| woken = now())?;
        }
        say(&woken.to_string())?;
    }
    Ok(())
}
