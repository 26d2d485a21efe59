//! What a subscription is to be.

use std::path::PathBuf;
use std::time::Duration;

use agentfs_proto::message::{Hello, Token};

use crate::client::Client;
use crate::deadline::Deadline;
use crate::error::ConnectError;

/// How long the daemon may take for an answer, unless [`SubscriptionOptions::patience`] says
/// otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to subscribe to, and how.
///
/// # Examples
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let path = daemon::start()?;
/// use agentfs_client::SubscriptionOptions;
///
/// let subscription = SubscriptionOptions::new()
///     .socket(path)
///     .branch("attempt-1")
///     .path("/src")
///     .ring_capacity(1 << 20)
///     .open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SubscriptionOptions {
    socket: Option<PathBuf>,
    program: String,
    token: Option<Token>,
    branch: String,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) activity: bool,
    pub(crate) ring_capacity: u32,
    pub(crate) patience: Duration,
    pub(crate) resume_within: Duration,
}

impl Default for SubscriptionOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SubscriptionOptions {
    /// Returns the options for all changes in the branch `main` of the daemon at the
    /// [default socket](agentfs_proto::socket::default_path).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// for event in agentfs_client::SubscriptionOptions::new().open()? {
    ///     println!("{}", event?.path.display());
    /// }
    /// # Ok::<(), agentfs_client::SubscriptionError>(())
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self {
            socket: None,
            program: "agentfs-client".to_owned(),
            token: None,
            branch: String::new(),
            paths: vec![PathBuf::from("/")],
            activity: false,
            ring_capacity: 0,
            patience: PATIENCE,
            resume_within: Duration::ZERO,
        }
    }

    /// Sets the path of the daemon's control socket.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().socket("/run/user/1000/agentfs/project.sock");
    /// ```
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Sets the name by which `agentfs status` lists this program.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().program("my-builder");
    /// ```
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        name.clone_into(&mut self.program);
        self
    }

    /// Binds the session to the branch of a token. The name given to [`branch`](Self::branch) is
    /// ignored then.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// use agentfs_proto::message::Token;
    ///
    /// let options = SubscriptionOptions::new().token(Token([7; 16]));
    /// ```
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the branch, in place of `main`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().branch("attempt-1");
    /// ```
    #[must_use]
    pub fn branch(mut self, name: &str) -> Self {
        name.clone_into(&mut self.branch);
        self
    }

    /// Sets the path at and below which changes are heard, in place of `/`. It is absolute in the
    /// branch, and need not exist.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().path("/src");
    /// ```
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.paths = vec![path.into()];
        self
    }

    /// Adds a further path. A change that lies below several of the paths is heard once for each.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().path("/src").and_path("/tests");
    /// ```
    #[must_use]
    pub fn and_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// Sets whether opening, reading and closing are heard as well.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().activity(true);
    /// ```
    #[must_use]
    pub fn activity(mut self, activity: bool) -> Self {
        self.activity = activity;
        self
    }

    /// Sets the size of the ring in bytes: a power of two from 4 KiB to 1 GiB, or 0 for the daemon's
    /// default. A larger ring takes longer bursts before the daemon has to hold records for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// let options = SubscriptionOptions::new().ring_capacity(1 << 20);
    /// ```
    #[must_use]
    pub fn ring_capacity(mut self, bytes: u32) -> Self {
        self.ring_capacity = bytes;
        self
    }

    /// Sets how long the daemon may take for one answer, in place of 30 seconds.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// use std::time::Duration;
    ///
    /// let options = SubscriptionOptions::new().patience(Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets for how long the subscription tries to reach another daemon at the same socket after its
    /// own has ended, before it returns [`DaemonGone`](crate::SubscriptionError::DaemonGone). By default it
    /// does not try.
    ///
    /// # Examples
    ///
    /// ```
    /// # use agentfs_client::SubscriptionOptions;
    /// use std::time::Duration;
    ///
    /// let options = SubscriptionOptions::new().resume_within(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn resume_within(mut self, limit: Duration) -> Self {
        self.resume_within = limit;
        self
    }

    /// Opens a session as the options say.
    pub(crate) fn connect(&self, deadline: Deadline) -> Result<Client, ConnectError> {
        let hello = Hello {
            token: self.token,
            branch: self.branch.clone(),
            ..Hello::new(&self.program)
        };
        let (client, _) = match &self.socket {
            Some(path) => Client::connect(path, hello, deadline)?,
            None => Client::connect_default(hello, deadline)?,
        };
        Ok(client)
    }
}
