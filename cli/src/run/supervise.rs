//! Runs the command as a child and passes on the signals that this process gets.

use std::io;
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, getpid, kill_process, waitpid};

/// The signals that are passed on. Stopping and continuing is for the terminal's whole process group, to which the
/// command belongs.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// The sender of a signal that comes from a terminal (sigaction(2)): the command has it already.
const SI_KERNEL: i32 = 0x80;

/// Runs a command and waits for its end. The signals stay blocked, so that they do not interrupt what
/// follows half-way.
pub(super) fn run(mut command: Command) -> io::Result<ExitStatus> {
    let blocked = blocked();
    blocked.thread_block()?;
    let signals = SignalFd::with_flags(&blocked, SfdFlags::SFD_CLOEXEC)?;
    // The child inherits the blocked signals and unblocks them.
    let child = command.spawn()?;
    let pid = Pid::from_child(&child);
    loop {
        let Some(signal) = signals.read_signal()? else {
            continue;
        };
        if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGCHLD as i32) {
            if let Some(status) = look_after(pid)? {
                return Ok(status);
            }
        } else if signal.ssi_code != SI_KERNEL && signal.ssi_pid != child.id() {
            pass_on(pid, signal.ssi_signo);
        }
    }
}

fn blocked() -> SigSet {
    let mut signals = SigSet::empty();
    PASSED_ON.into_iter().for_each(|it| signals.add(it));
    signals.add(Signal::SIGCHLD);
    signals
}

/// Waits for a line of input. Returns `None` at the end of the input, or when a signal comes.
pub(super) fn line() -> io::Result<Option<String>> {
    let mut signals = blocked();
    signals.remove(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let input = io::stdin();
    let mut ready = [
        PollFd::new(&signals, PollFlags::IN),
        PollFd::new(&input, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut ready, None))?;
    let [signal, _] = &ready;
    if !signal.revents().is_empty() {
        // The signal is taken, so that it does not interrupt what follows.
        signals.read_signal()?;
        return Ok(None);
    }
    // A terminal delivers a line at a time (termios(3)).
    let mut bytes = [0; 256];
    let len = rustix::io::retry_on_intr(|| rustix::io::read(&input, &mut bytes))?;
    let text = bytes.get(..len).filter(|text| !text.is_empty());
    Ok(text.map(|text| String::from_utf8_lossy(text).into_owned()))
}

/// Waits until there is something to read, the time has passed, or a signal comes, and returns the name
/// of the signal.
pub(super) fn readable_or_signal(
    answer: impl AsFd,
    time: Option<Duration>,
) -> io::Result<Option<&'static str>> {
    let mut wanted = SigSet::empty();
    [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
    ]
    .into_iter()
    .for_each(|it| wanted.add(it));
    let signals = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC)?;
    let mut ready = [
        PollFd::new(&signals, PollFlags::IN),
        PollFd::new(&answer, PollFlags::IN),
    ];
    let time = time.and_then(|it| Timespec::try_from(it).ok());
    rustix::io::retry_on_intr(|| poll(&mut ready, time.as_ref()))?;
    let [signal, _] = &ready;
    if signal.revents().is_empty() {
        return Ok(None);
    }
    let number = signals.read_signal()?.map(|it| it.ssi_signo);
    let signal = number.and_then(|it| Signal::try_from(i32::try_from(it).ok()?).ok());
    Ok(Some(signal.map_or("a signal", Signal::as_str)))
}

/// Unblocks the signals, as the child does first.
pub(super) fn unblock() -> io::Result<()> {
    Ok(blocked().thread_unblock()?)
}

/// Returns the status of the command if it has ended. When the command has stopped, this process stops
/// too, so that a shell sees it.
fn look_after(pid: Pid) -> io::Result<Option<ExitStatus>> {
    use std::os::unix::process::ExitStatusExt as _;
    while let Some((_, status)) = waitpid(Some(pid), WaitOptions::NOHANG | WaitOptions::UNTRACED)? {
        if !status.stopped() {
            return Ok(Some(ExitStatus::from_raw(status.as_raw())));
        }
        kill_process(getpid(), rustix::process::Signal::STOP)?;
        // Somebody has continued this process, so the command is continued as well.
        kill_process(pid, rustix::process::Signal::CONT)?;
    }
    Ok(None)
}

fn pass_on(pid: Pid, number: u32) {
    let signal = i32::try_from(number)
        .ok()
        .and_then(rustix::process::Signal::from_named_raw);
    if let Some(signal) = signal
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::debug!(%error, "the command ended before a signal reached it");
    }
}
