//! `agentfs daemon`: the server, in the foreground.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum as _};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;
use tracing_subscriber::EnvFilter;

use crate::common::Common;
use crate::echo_mode::Echo;
use crate::output::failure::Failure;
use crate::project::store::{self, LimitArgs, StoreArgs};
use crate::{platform, shim};
use agentfs_daemon::{Companion, Config, Daemon, SessionLimits};

/// Serve branches over a directory, until Ctrl-C or SIGTERM
///
/// With --lower the branches are kept in a store on disk, and a daemon over the same directory has them
/// again. An empty tree is in memory, unless --store names a directory.
///
/// `agentfs run` starts a daemon when it needs one. Start one by hand to keep branches and mounts beyond
/// single runs, as a service, or where nothing can be mounted.
///
/// Logs go to standard error; RUST_LOG says how much, as in RUST_LOG=agentfs=debug. A socket passed
/// by systemd (LISTEN_FDS) is used instead of a path.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentfs daemon                          an empty tree
  agentfs daemon --lower ~/project        branches over a directory, kept in the user's state directory
  agentfs daemon --lower ~/project --store /big/disk/project
  agentfs daemon --lower ~/project --in-memory
  AGENTFS_SOCKET=/run/me/a.sock agentfs daemon")]
pub(crate) struct DaemonArgs {
    /// The project: every branch begins as a view of this directory, which is written only when a branch is
    /// applied to it. Without it, branches begin empty
    #[arg(long, value_name = "DIR")]
    lower: Option<PathBuf>,
    #[command(flatten)]
    keeping: StoreArgs,
    #[command(flatten)]
    limit: LimitArgs,
    /// Serve what can be read of a damaged store, and change nothing in it, so that branches can be exported
    /// and copied out of mounts. What is lost is in the log and in `agentfs store show`
    #[arg(long, requires = "store", conflicts_with_all = ["max_store", "keep_mounts"])]
    salvage: bool,
    /// Make new branches frozen: a frozen branch shows nothing that happens to the project after it was
    /// made, as with `agentfs run --frozen`. Without it, branches are live
    #[arg(long, requires = "lower")]
    frozen: bool,
    /// Keep the mounts when the daemon is killed: programs wait for the next daemon, which is started, and
    /// go on with what they have open. Not ready for general use (docs/design/takeover.md)
    #[arg(long, hide = true, requires = "store")]
    keep_mounts: bool,
    /// Do not watch the project, for instance when it has more directories than there are inotify
    /// watches. Programs in a branch still see what others change there, but more slowly, and no watcher
    /// is notified of it
    #[arg(long)]
    no_watch_lower: bool,
    /// When to replay outside changes through a mount, so that programs the library cannot be preloaded
    /// into (static, Go, setuid) still get events
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    echo: Echo,
    /// How many programs may be connected at a time
    #[arg(long, value_name = "N", default_value_t = SessionLimits::default().sessions)]
    max_sessions: usize,
    /// How many watches one program may have
    #[arg(long, value_name = "N", default_value_t = SessionLimits::default().watches)]
    max_watches: u32,
    /// End when nobody is connected, nothing is mounted and no branch has changes, as the daemons that
    /// `agentfs run` starts do
    #[arg(long)]
    until_unused: bool,
}

pub(crate) fn run(common: &Common, args: DaemonArgs) -> Result<(), Failure> {
    if common.project.is_some() {
        let text = "the directory that a daemon serves is named by --lower; --project is for commands \
                    that look for a daemon";
        return Err(Failure::Other(text.to_owned()));
    }
    start_logging(common.json);
    crate::heap::share_one();
    let mut config = Config::new(
        common
            .socket
            .clone()
            .unwrap_or_else(agentfs_proto::socket::default_path),
    );
    config.store = args.keeping.prepare(args.lower.as_deref())?;
    if let Some(store) = config.store.as_ref().filter(|_| args.keep_mounts) {
        let next = next_daemon(common, &args, &config.socket, store);
        config.keeping = platform::kept_mounts(store, next).map_err(Failure::Input)?;
    }
    let most = |most| Some(most).filter(|most| *most > 0);
    config.salvage = args.salvage;
    config.max_store = args.limit.max_store.map(most);
    if config.max_store.is_some() && config.store.is_none() {
        let text =
            "branches in memory have no store to limit; --max-store needs --lower or --store";
        return Err(Failure::Other(text.to_owned()));
    }
    config.lower = args.lower;
    config.frozen = args.frozen;
    config.echo = args.echo.into();
    config.watch_lower = !args.no_watch_lower;
    config.use_systemd_socket = common.socket.is_none();
    config.limits.sessions = args.max_sessions;
    config.limits.watches = args.max_watches;
    config.until_unused = args.until_unused;
    config.saves_changes = true;
    config.companion = Some(Companion {
        is_name: shim::is_name,
        restore: shim::restore,
    });
    // `run` starts it as /proc/self/exe, which is not how it is to be listed.
    platform::name_process();
    if args.until_unused
        && let Err(error) = rustix::process::setsid()
    {
        // Ctrl-C at the terminal of the run that started this daemon ends the daemon as well.
        tracing::warn!(%error, "no session of its own");
    }
    // A write beyond RLIMIT_FSIZE fails with EFBIG instead of ending the daemon. A command that the
    // daemon starts does not inherit this, as it would inherit an ignored signal.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map_err(Failure::Input)?;
    // A program that sees the socket may already send a signal.
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(Failure::Input)?;
    let (store, lower) = (config.store.clone(), config.lower.clone());
    let daemon = Daemon::start(config).map_err(|error| match &store {
        Some(store) => store::not_opened(store, error),
        None => Failure::Start(error),
    })?;
    if let Some(store) = store.as_ref().filter(|_| !args.salvage) {
        store::sign(store, daemon.socket(), lower.as_deref());
        tracing::info!(store = %store.display(), "the branches are kept");
    }
    notify_systemd("READY=1");
    if args.until_unused {
        // The run that started this daemon waits for the line, but may be gone.
        drop(io::stdout().write_all(b"ready\n"));
        drop(io::stdout().flush());
    }
    let stopper = daemon.stopper();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                tracing::info!(signal, "stopping");
                stopper.stop();
            }
        })
        .map_err(Failure::Input)?;
    let ended = daemon.wait().map_err(Failure::Start);
    notify_systemd("STOPPING=1");
    ended
}

/// Returns the arguments of the daemon that goes on when this one is killed. systemd starts its
/// services again itself, and sets SYSTEMD_EXEC_PID for them (systemd.exec(5)): there are none then.
fn next_daemon(common: &Common, args: &DaemonArgs, socket: &Path, store: &Path) -> Vec<OsString> {
    let own = std::process::id().to_string();
    if std::env::var_os("SYSTEMD_EXEC_PID").is_some_and(|it| it == *own) {
        return Vec::new();
    }
    let full = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut all: Vec<OsString> = vec!["daemon".into(), "--keep-mounts".into()];
    let mut add = |name: &str, value: &OsStr| all.extend([name.into(), value.to_owned()]);
    add("--socket", full(socket).as_os_str());
    add("--store", store.as_os_str());
    if let Some(lower) = &args.lower {
        add("--lower", full(lower).as_os_str());
    }
    let echo = args.echo.to_possible_value();
    let echo = echo.as_ref().map_or("auto", PossibleValue::get_name);
    add("--echo", echo.as_ref());
    add("--max-sessions", args.max_sessions.to_string().as_ref());
    add("--max-watches", args.max_watches.to_string().as_ref());
    let flags = [
        (args.frozen, "--frozen"),
        (args.no_watch_lower, "--no-watch-lower"),
        (args.until_unused, "--until-unused"),
        (common.json, "--json"),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    all.extend(set.map(|(_, flag)| flag.into()));
    all
}

/// How long a service manager may take for a message. A socket that nobody reads is full after ten of
/// them, and a daemon that waited for it would not end when it is told to.
const NOTIFYING: Duration = Duration::from_secs(2);

/// Notifies the service manager, if there is one, of a state (sd_notify(3)).
fn notify_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = match path.as_bytes().strip_prefix(b"@") {
        None => UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(NOTIFYING))?;
            socket.send_to(state.as_bytes(), Path::new(&path))
        }),
        Some(name) => platform::send_to_abstract(name, state),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "NOTIFY_SOCKET cannot be notified");
    }
}

fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        // Otherwise a standard error that cannot be written would cause a panic.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    let started = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
    if let Err(error) = started {
        tracing::debug!(error, "somebody else logs already");
    }
}
