//! A daemon inside a process: its thread, its start and its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use agentfs_core::FsCore;
use agentfs_engine::service::WatchService;
use agentfs_export::Target;

use crate::base::config::Config;
use crate::base::start_error::{ListenError, StartError};
use crate::base::wake::{Wake, WakeQueue};
use crate::event_loop::EventLoop;
use crate::event_loop::claim::{Claim, Claimed};
use crate::event_loop::listener::Listener;
use crate::mounts::table::MountTable;
use crate::shared::services::Services;

/// A daemon that serves from a thread of this process. It ends when this is dropped.
///
/// ```
/// use agentfs_daemon::{Config, Daemon};
/// use agentfs_client::{Client, Deadline};
/// use agentfs_proto::message::{Hello, Ping};
///
/// let directory = tempfile::Builder::new().permissions(private()).tempdir()?;
/// let daemon = Daemon::start(Config::new(directory.path().join("control.sock")))?;
/// let (mut client, _) = Client::connect(daemon.socket(), Hello::new("example"), Deadline::NEVER)?;
/// assert_eq!(client.call(Ping { nonce: 7 }, Deadline::NEVER)?.value, 7);
/// # fn private() -> std::fs::Permissions { std::os::unix::fs::PermissionsExt::from_mode(0o700) }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Daemon {
    thread: Option<JoinHandle<io::Result<()>>>,
    /// Held until everything else has ended.
    _claim: Option<Claim>,
    wakes: Arc<WakeQueue>,
    services: Arc<Services>,
    socket: PathBuf,
}

/// Ends a daemon from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<WakeQueue>);

impl Stopper {
    /// Makes the daemon end. Returns at once; [`Daemon::wait`] waits.
    pub fn stop(&self) {
        self.0.send(Wake::Stop);
    }
}

impl Daemon {
    /// Listens, and serves from a new thread. Connections are accepted when this returns.
    ///
    /// # Errors
    ///
    /// [`StartError`] when it cannot listen or run.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let claim = claim(&config)?;
        let passed = if config.use_systemd_socket {
            Listener::from_systemd().map_err(StartError::Listen)?
        } else {
            None
        };
        let listener = match passed {
            Some(listener) => listener,
            None => Listener::bind(&config.socket).map_err(StartError::Listen)?,
        };
        let socket = listener.path().to_owned();
        raise_descriptor_limit();
        let make = |wakes: &Arc<WakeQueue>, registry| Services::new(&config, wakes, registry);
        let (until_unused, companion) = (config.until_unused, config.companion);
        let event_loop = EventLoop::new(listener, until_unused, companion, make)?;
        let wakes = Arc::clone(event_loop.wakes());
        let services = Arc::clone(event_loop.services());
        services.mounting().take_over().map_err(StartError::Io)?;
        services.catch_up();
        let thread = std::thread::Builder::new()
            .name("agentfs-server".to_owned())
            .spawn({
                let services = Arc::clone(&services);
                move || run(event_loop, &services)
            })
            .map_err(StartError::Io)?;
        tracing::info!(socket = %socket.display(), "listening");
        Ok(Self {
            thread: Some(thread),
            _claim: claim,
            wakes,
            services,
            socket,
        })
    }

    /// Returns where the daemon listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the filesystem that the daemon serves.
    #[must_use]
    pub fn core(&self) -> &FsCore {
        self.services.core()
    }

    /// Returns the watches and queues of all sessions.
    #[must_use]
    pub fn watches(&self) -> &WatchService {
        self.services.watches()
    }

    /// Returns the table of mounts.
    #[must_use]
    pub fn mounts(&self) -> &MountTable {
        self.services.mounts()
    }

    /// Returns what ends the daemon from another thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.wakes))
    }

    /// Waits until the daemon has ended: by a [`Stopper`], or by a request.
    ///
    /// # Errors
    ///
    /// [`StartError`] when it failed.
    pub fn wait(mut self) -> Result<(), StartError> {
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(StartError::Io(error)),
            Some(Err(_)) => Err(StartError::Panicked),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.wakes.send(Wake::Stop);
        if let Some(thread) = self.thread.take()
            && !matches!(thread.join(), Ok(Ok(())))
        {
            tracing::error!("the server thread failed");
        }
    }
}

/// Serves until the daemon ends. The changes of branches are exported even if the loop fails.
fn run(event_loop: EventLoop, services: &Services) -> io::Result<()> {
    let serve = std::panic::AssertUnwindSafe(|| event_loop.run());
    let ended = std::panic::catch_unwind(serve);
    services.save_changes();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Claims the directory below the branches. A daemon that does not export the changes of its
/// branches leaves nothing out of reach, and claims nothing.
fn claim(config: &Config) -> Result<Option<Claim>, StartError> {
    let Some(lower) = config.lower.as_deref().filter(|_| config.saves_changes) else {
        return Ok(None);
    };
    let project = Target::open(lower).and_then(|it| it.identity());
    let project = project.map_err(|error| StartError::Lower(lower.to_owned(), error))?;
    match Claim::take(project, &config.socket) {
        Ok(Claimed::Ours(claim)) => Ok(Some(claim)),
        Ok(Claimed::Free) => Ok(None),
        Ok(Claimed::Running) => Err(StartError::Listen(ListenError::Running(
            config.socket.clone(),
        ))),
        Ok(Claimed::Unreachable { pid, socket }) => Err(StartError::Unreachable {
            lower: lower.to_owned(),
            pid,
            socket,
        }),
        Err(error) => {
            tracing::warn!(%error, "a second daemon over the same directory would not be noticed");
            Ok(None)
        }
    }
}

/// Raises the soft limit of descriptors to the hard one: every queue takes some, and the usual soft
/// limit is far lower.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
