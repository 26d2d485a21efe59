//! What Linux does in its own way. `other.rs` has the same names.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentfs_daemon::{KeptMounts, SAVING, listeners};
use agentfs_proto::message::MountInfo;
use clap::Subcommand;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::StatVfsMountFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, waitpid};

use crate::common::Common;
use crate::demo::watcher;
use crate::output::Output;
use crate::output::failure::Failure;
use crate::status::listeners::Listener;
use crate::{join, keep_mount, run};

/// The commands that need Linux.
#[derive(Debug, Subcommand)]
pub(crate) enum PlatformCommand {
    Run(run::RunArgs),
    Join(join::JoinArgs),
    #[command(hide = true)]
    Enter(run::child::EnterArgs),
    #[command(hide = true)]
    KeepMount(keep_mount::KeepMountArgs),
    #[command(hide = true)]
    PlainWatcher(watcher::PlainWatcherArgs),
}

impl PlatformCommand {
    /// Carries out the command. The exit status of most of them is that of another program.
    pub(crate) fn run(self, common: &Common, output: &mut Output) -> Result<ExitCode, Failure> {
        Ok(match self {
            Self::Run(args) => run::run(common, args),
            Self::Join(args) => join::run(common, &args),
            Self::Enter(args) => run::child::run(common, args),
            Self::KeepMount(args) => {
                keep_mount::run(args)?;
                ExitCode::SUCCESS
            }
            Self::PlainWatcher(args) => {
                watcher::run(&args, output)?;
                ExitCode::SUCCESS
            }
        })
    }
}

/// The name of the preloaded library's file ends with this.
pub(crate) const LIBRARY_SUFFIX: &str = "so";

/// The variable that names libraries to be loaded before all others (ld.so(8)).
pub(crate) const PRELOAD_VARIABLE: &str = "LD_PRELOAD";

/// Returns how the mounts of a daemon with this store are kept, until the daemon with the arguments `next`
/// has started; without arguments nobody starts one.
pub(crate) fn kept_mounts(store: &Path, next: Vec<OsString>) -> io::Result<Option<KeptMounts>> {
    /// How long programs wait for a daemon: it may take a minute to start again, when several were killed.
    const PATIENCE: Duration = Duration::from_secs(120);
    let program = std::env::current_exe()?;
    let mut next_daemon = Vec::new();
    if !next.is_empty() {
        next_daemon.push(program.clone().into_os_string());
        next_daemon.extend(next);
    }
    Ok(Some(KeptMounts {
        program,
        arguments: vec!["keep-mount".into()],
        directory: store.join("mounts"),
        patience: PATIENCE,
        next_daemon,
    }))
}

/// Names this process, which may have been started as `/proc/self/exe`, for ps(1) and the like.
pub(crate) fn name_process() {
    if let Err(error) = rustix::thread::set_name(c"agentfs") {
        tracing::debug!(%error, "the process keeps its name");
    }
}

/// Sends a datagram to an abstract socket (unix(7)).
pub(crate) fn send_to_abstract(name: &[u8], text: &str) -> io::Result<usize> {
    let address = SocketAddr::from_abstract_name(name)?;
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address)
}

/// How long a daemon may take to end: as long as it may export, and somewhat longer.
const END_PATIENCE: Duration = SAVING.saturating_add(Duration::from_secs(25));

/// Waits until the daemon has ended, and so its exports are complete and its store is free.
pub(crate) fn wait_for_end(daemon: u32) {
    let pid = i32::try_from(daemon).ok().and_then(Pid::from_raw);
    // When there is no such process it has ended.
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    let timeout = Timespec::try_from(END_PATIENCE).ok();
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let waited = rustix::io::retry_on_intr(|| poll(&mut ended, timeout.as_ref()));
    if waited.is_err() {
        tracing::debug!("the end of the daemon cannot be waited for");
    }
}

/// Returns whether a directory lies on an overlay filesystem, as those of most containers do.
pub(crate) fn is_overlay(directory: &Path) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` (statfs(2)).
    const OVERLAY: u32 = 0x794C_7630;
    let found = rustix::fs::statfs(directory);
    found.is_ok_and(|it| u32::try_from(it.f_type & 0xFFFF_FFFF) == Ok(OVERLAY))
}

/// Starts a daemon over a project at a socket, and waits until it listens.
pub(crate) fn start_daemon(socket: &Path, project: &Path) -> Result<(), Failure> {
    run::spawn_daemon::start_for_command(socket, project)
}

/// Returns whether a directory lies on a FUSE mount.
pub(crate) fn is_fuse(directory: &Path) -> bool {
    /// `FUSE_SUPER_MAGIC` (statfs(2)).
    const FUSE: u32 = 0x6573_5546;
    // The type of the number differs from machine to machine; the value has 32 bits.
    let found = rustix::fs::statfs(directory);
    found.is_ok_and(|it| u32::try_from(it.f_type & 0xFFFF_FFFF) == Ok(FUSE))
}

/// Returns whether no program and no library can be loaded from a directory's filesystem.
pub(crate) fn is_noexec(directory: &Path) -> io::Result<bool> {
    let mount = rustix::fs::statvfs(directory)?;
    Ok(mount.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Returns whether a program gets capabilities from its file (capabilities(7)).
pub(crate) fn has_capabilities(program: &Path) -> bool {
    let mut value = [0_u8; 64];
    rustix::fs::getxattr(program, "security.capability", &mut value).is_ok()
}

/// Returns the programs that watch these mounts without the preloaded library, as far as this user may
/// see them.
pub(crate) fn listeners_on(mounts: &[MountInfo]) -> Vec<Listener> {
    if mounts.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for instance in listeners::all().iter().filter(|it| !it.is_hooked) {
        for mount in mounts {
            let marks = instance.marks.iter();
            let watches = marks.filter(|(device, _)| *device == mount.st_dev).count();
            if watches > 0 || instance.devices.contains(&mount.st_dev) {
                found.push(Listener {
                    pid: instance.pid,
                    program: listeners::name(instance.pid),
                    mount: mount.path.to_string(),
                    watches,
                });
            }
        }
    }
    found
}

/// Makes processes whose parent ends, below this one, children of this process
/// (`PR_SET_CHILD_SUBREAPER`, prctl(2)).
pub(crate) fn adopt_orphans() {
    let own = rustix::process::getpid();
    if let Err(error) = rustix::process::set_child_subreaper(Some(own)) {
        tracing::debug!(%error, "orphans are left to another process");
    }
}

/// Ends the children that were started with this entry, `NAME=value`, in their environment: by SIGTERM,
/// and those that are still there when the time is over by SIGKILL. Returns whether none of them is left.
///
/// Any child that ends meanwhile is waited for: when it has ended, its own children are children of this
/// process, and some of them may have the entry.
pub(crate) fn end_children_with(entry: &OsStr, patience: Duration) -> bool {
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, patience)] {
        let until = Instant::now() + patience;
        loop {
            let mut left = children();
            left.retain(|pid| is_ending(*pid) || was_started_with(*pid, entry, until));
            if left.is_empty() {
                return true;
            }
            if !left.into_iter().all(|pid| end(pid, signal, until)) {
                break;
            }
        }
    }
    false
}

/// Returns the children of this process, those included that have ended and were not waited for.
fn children() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = processes.map(|entry| entry.file_name());
    let all = names.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?));
    all.filter(|pid| stat_field(*pid, 4).as_ref() == Some(&own))
        .collect()
}

/// Returns whether a process has no memory any more, because it ends or has ended (`vsize`,
/// proc_pid_stat(5)).
fn is_ending(pid: Pid) -> bool {
    stat_field(pid, 23).is_some_and(|it| it == "0")
}

/// Returns whether a process has this entry in the environment that it was started with. That of another
/// user's process cannot be read.
fn was_started_with(pid: Pid, entry: &OsStr, until: Instant) -> bool {
    let environment = proc_file(pid, "environ");
    loop {
        let Ok(text) = fs::read(&environment) else {
            return false;
        };
        if !text.is_empty() || Instant::now() >= until {
            return text
                .split(|byte| *byte == 0)
                .any(|it| it == entry.as_bytes());
        }
        if is_ending(pid) {
            return true;
        }
        // execve(2) gives a process its new memory before its environment (`env_end`).
        if stat_field(pid, 51).is_some_and(|it| it != "0") {
            return false;
        }
        std::thread::yield_now();
    }
}

/// Returns a field of a process's `stat`, by the number that it has in proc_pid_stat(5). It is one after
/// the name of the program.
fn stat_field(pid: Pid, number: usize) -> Option<String> {
    let stat = fs::read_to_string(proc_file(pid, "stat")).ok()?;
    // The name, which is field 2 and in parentheses, may have any characters.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    fields.nth(number.checked_sub(3)?).map(str::to_owned)
}

fn proc_file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", pid.as_raw_nonzero()))
}

/// Sends a signal to a child and waits for its end. False when that does not come in time.
fn end(pid: Pid, signal: Signal, until: Instant) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    // One that has ended takes no signal.
    kill_process(pid, signal).unwrap_or(());
    let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let polled = rustix::io::retry_on_intr(|| poll(&mut ended, left.as_ref()));
    let has_ended = polled.is_ok_and(|ready| ready > 0);
    if has_ended && let Err(error) = waitpid(Some(pid), WaitOptions::NOHANG) {
        tracing::debug!(%error, "somebody else waited for the process");
    }
    has_ended
}
