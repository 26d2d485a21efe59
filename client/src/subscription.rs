//! A subscription to what changes below a path of a branch.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use agentfs_proto::message::{QueueKind, QueueOpen, WatchRegisterTree};
use agentfs_proto::record::EventRef;
use agentfs_ring::doorbell::{BellKind, Ringer, Waiter, Woken, peer_is_gone};
use agentfs_ring::{ArmOutcome, Bell, Claim, Consumer, OwnerId};

use crate::client::{Client, OpenQueue};
use crate::deadline::Deadline;
use crate::error::{CallError, ConnectError, SubscriptionError};
use crate::event::{Event, EventKind};
use crate::options::SubscriptionOptions;

/// The most records that are taken out of the ring at a time.
const BATCH: usize = 256;

/// The shortest and the longest pause between two attempts to reach the next daemon.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// The doorbell by which a reader asks for more, as the daemon makes it on this system.
const REFILL: BellKind = if cfg!(target_os = "linux") {
    BellKind::EventFd
} else {
    BellKind::Pipe
};

/// The events at and below one path of a branch, in the order of their commits.
///
/// The subscription is an iterator that sleeps until an event comes. A program that waits for
/// several things passes the [descriptor](AsFd) to poll(2) and calls [`try_next`](Self::try_next)
/// until there is nothing more.
///
/// No event is lost: what does not fit the ring waits in the daemon, and a program that reads too
/// slowly for that gets the difference between what it knows and the present state, each event
/// marked [`is_healed`](Event::is_healed).
#[derive(Debug)]
pub struct Subscription {
    options: SubscriptionOptions,
    channel: Channel,
    /// The daemon of the channel has ended, and all that it had published is in `ready`.
    is_daemon_gone: bool,
    /// Events that were taken out of the ring and not handed out yet.
    ready: VecDeque<Event>,
    has_failed: bool,
}

/// The queue of one session.
#[derive(Debug)]
struct Channel {
    client: Client,
    consumer: Consumer,
    refill: Ringer,
    doorbell: Waiter,
}

impl SubscriptionOptions {
    /// Connects to the daemon and subscribes. When this returns, every later change is heard.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::Connect`] when there is no daemon, [`SubscriptionError::Call`] when it
    /// refuses, for instance because there is no such branch.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = daemon::start()?;
    /// use agentfs_client::{EventKind, SubscriptionOptions};
    ///
    /// let mut subscription = SubscriptionOptions::new().socket(path).path("/src").open()?;
    /// // Somebody creates /src/hello.
    /// let event = subscription.next().expect("it waits without end")?;
    /// assert_eq!(event.kind, EventKind::Created);
    /// assert_eq!(event.path.to_str(), Some("/src/hello"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(&self) -> Result<Subscription, SubscriptionError> {
        Subscription::open(self.clone())
    }
}

impl Subscription {
    pub(crate) fn open(options: SubscriptionOptions) -> Result<Self, SubscriptionError> {
        let client = options.connect(Deadline::after(options.patience))?;
        Self::over(client, options)
    }

    /// Subscribes in a session that exists already. Of the options, those that say how to connect
    /// serve when the subscription resumes.
    ///
    /// # Errors
    ///
    /// As [`SubscriptionOptions::open`], [`SubscriptionError::Connect`] excepted.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let client = daemon::client()?;
    /// use agentfs_client::{Subscription, SubscriptionOptions};
    ///
    /// let subscription = Subscription::over(client, SubscriptionOptions::new().path("/src"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn over(client: Client, options: SubscriptionOptions) -> Result<Self, SubscriptionError> {
        let channel = Channel::open(client, &options)?;
        Ok(Self {
            options,
            channel,
            is_daemon_gone: false,
            ready: VecDeque::new(),
            has_failed: false,
        })
    }

    /// Returns the next event that is there, without waiting. After `None` the doorbell is armed: the
    /// [descriptor](AsFd) is readable as soon as there is more.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`]; after [`DaemonGone`](SubscriptionError::DaemonGone),
    /// [`resume`](Self::resume) goes on.
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = daemon::start()?;
    /// # let mut subscription = agentfs_client::SubscriptionOptions::new().socket(path).open()?;
    /// // poll(2) says that the descriptor of `subscription` is readable:
    /// while let Some(event) = subscription.try_next()? {
    ///     println!("{}", event.path.display());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_next(&mut self) -> Result<Option<Event>, SubscriptionError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.fill()? {
                continue;
            }
            if self.is_daemon_gone {
                return Err(SubscriptionError::DaemonGone);
            }
            // System calls only now that there is nothing to read. Both come before the last look at
            // the ring, which so finds what a daemon published before its end.
            let is_gone = self.channel.is_daemon_gone()?;
            self.channel.clear()?;
            if self.fill()? {
                continue;
            }
            if !is_gone {
                return Ok(None);
            }
            self.is_daemon_gone = true;
        }
    }

    /// Takes a batch of events out of the ring and arms the doorbell. Returns whether there is
    /// something to look at.
    fn fill(&mut self) -> Result<bool, SubscriptionError> {
        let ready = &mut self.ready;
        self.channel
            .pop(BATCH, |record| ready.extend(Event::of_record(record)))?;
        Ok(self.channel.arm()? == ArmOutcome::WorkPending || !self.ready.is_empty())
    }

    /// Waits for the next event. Returns `None` when the deadline passes.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`].
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = daemon::start()?;
    /// # let mut subscription = agentfs_client::SubscriptionOptions::new().socket(path).open()?;
    /// use std::time::Duration;
    ///
    /// use agentfs_client::Deadline;
    ///
    /// // The events of a burst, until nothing has come for a moment.
    /// let mut changed = Vec::new();
    /// while let Some(event) = subscription.next_within(Deadline::after(Duration::from_millis(50)))? {
    ///     changed.push(event.path);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_within(&mut self, deadline: Deadline) -> Result<Option<Event>, SubscriptionError> {
        loop {
            match self.try_next() {
                Ok(None) => {
                    if !self.wait(deadline)? {
                        return Ok(None);
                    }
                }
                Err(SubscriptionError::DaemonGone) if !self.options.resume_within.is_zero() => {
                    self.resume(Deadline::after(self.options.resume_within))?;
                }
                other => return other,
            }
        }
    }

    /// Sleeps until there may be something to read. Returns false when the deadline passes.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::DaemonGone`] when nothing will follow, and nothing is left to read.
    ///
    /// # Examples
    ///
    /// True means "look", not "there is an event": another look may have taken it.
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = daemon::start()?;
    /// # let mut subscription = agentfs_client::SubscriptionOptions::new().socket(path).open()?;
    /// # let soon = daemon::soon();
    /// if subscription.wait(soon)? {
    ///     while let Some(event) = subscription.try_next()? {
    ///         println!("{}", event.path.display());
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&mut self, deadline: Deadline) -> Result<bool, SubscriptionError> {
        if !self.ready.is_empty() || self.channel.arm()? == ArmOutcome::WorkPending {
            return Ok(true);
        }
        if self.is_daemon_gone {
            return Err(SubscriptionError::DaemonGone);
        }
        let lifeline = Some(self.channel.client.as_fd());
        let woken = self.channel.doorbell.wait(lifeline, deadline.remaining());
        match woken.map_err(SubscriptionError::Doorbell)? {
            Woken::Rung => self.channel.clear().map(|()| true),
            Woken::TimedOut => Ok(false),
            Woken::PeerGone => {
                self.is_daemon_gone = true;
                Ok(true)
            }
        }
    }

    /// Hands each record that is there to `read`, borrowed in the ring and without a copy: for
    /// programs to which an [`Event`] of their own is too dear. [`wait`](Self::wait) sleeps until
    /// there is more. Events that [`try_next`](Self::try_next) has taken out of the ring already are
    /// not among them.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError`].
    ///
    /// # Examples
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/daemon.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = daemon::start()?;
    /// # let mut subscription = agentfs_client::SubscriptionOptions::new().socket(path).open()?;
    /// # let soon = daemon::soon();
    /// let mut bytes = 0;
    /// while bytes == 0 && subscription.wait(soon)? {
    ///     subscription.drain(|record| bytes += record.path().len())?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn drain(&mut self, read: impl FnMut(&EventRef<'_>)) -> Result<(), SubscriptionError> {
        self.channel.pop(usize::MAX, read)
    }

    /// Connects to the next daemon at the same socket, and subscribes to the same. The next event is
    /// [`EventKind::Resumed`]. Does nothing while the daemon is there.
    ///
    /// # Errors
    ///
    /// [`SubscriptionError::DaemonGone`] when no daemon answers before the deadline; what else the
    /// next daemon says, for instance that it has no such branch.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use agentfs_client::{Deadline, SubscriptionError, SubscriptionOptions};
    ///
    /// let mut subscription = SubscriptionOptions::new().open()?;
    /// match subscription.next_within(Deadline::NEVER) {
    ///     Err(SubscriptionError::DaemonGone) => {
    ///         subscription.resume(Deadline::after(Duration::from_secs(60)))?;
    ///     }
    ///     other => println!("{other:?}"),
    /// }
    /// # Ok::<(), SubscriptionError>(())
    /// ```
    pub fn resume(&mut self, deadline: Deadline) -> Result<(), SubscriptionError> {
        let mut pause = PAUSES.0;
        while self.is_daemon_gone {
            let client = self.options.connect(Deadline::after(self.options.patience));
            let channel = client
                .map_err(SubscriptionError::from)
                .and_then(|client| Channel::open(client, &self.options));
            match channel {
                Ok(channel) => {
                    self.channel = channel;
                    self.is_daemon_gone = false;
                    self.ready
                        .push_back(Event::without_change(EventKind::Resumed));
                }
                Err(error) if is_between_daemons(&error) => {
                    let left = deadline.remaining().unwrap_or(PAUSES.1);
                    if left.is_zero() {
                        return Err(SubscriptionError::DaemonGone);
                    }
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(PAUSES.1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns whether no daemon listens, or one that ended before it had answered everything.
fn is_between_daemons(error: &SubscriptionError) -> bool {
    matches!(
        error,
        SubscriptionError::Connect(
            ConnectError::NoDaemon(_)
                | ConnectError::Handshake(CallError::Closed | CallError::Io(_))
        ) | SubscriptionError::Call(CallError::Closed | CallError::Io(_))
            | SubscriptionError::DaemonGone
    )
}

impl Channel {
    fn open(mut client: Client, options: &SubscriptionOptions) -> Result<Self, SubscriptionError> {
        let deadline = Deadline::after(options.patience);
        let open = QueueOpen {
            kind: QueueKind::Native,
            capacity: options.ring_capacity,
        };
        let OpenQueue {
            opened,
            ring,
            refill,
            doorbell,
        } = client.open_queue(open, deadline)?;
        for (number, path) in (1..).zip(&options.paths) {
            let watch = WatchRegisterTree {
                queue: opened.queue,
                watch: number,
                path: path.as_path().into(),
                activity: options.activity,
            };
            client.call(watch, deadline)?;
        }
        Ok(Self {
            client,
            consumer: Consumer::open(ring).map_err(SubscriptionError::Open)?,
            refill: Ringer::from_fd(refill, REFILL),
            doorbell: Waiter::from_fd(doorbell, BellKind::Pipe),
        })
    }

    /// Silences the doorbell. This comes before popping: a ring in between would be lost otherwise.
    fn clear(&self) -> Result<(), SubscriptionError> {
        self.doorbell
            .clear()
            .map(drop)
            .map_err(SubscriptionError::Doorbell)
    }

    fn claim(&self) -> Result<Claim<'_>, SubscriptionError> {
        let claim = self.consumer.claim(OwnerId::this_process(), |_| true);
        claim.ok_or(SubscriptionError::Shared)
    }

    /// Has the doorbell rung for whatever comes from now on, unless something is there already.
    fn arm(&self) -> Result<ArmOutcome, SubscriptionError> {
        self.claim()?.arm().map_err(SubscriptionError::Corrupt)
    }

    /// Hands at most `limit` records to `read`, and releases them.
    fn pop(
        &self,
        limit: usize,
        mut read: impl FnMut(&EventRef<'_>),
    ) -> Result<(), SubscriptionError> {
        let mut claim = self.claim()?;
        let mut copy = Vec::new();
        for _ in 0..limit {
            let Some(record) = claim.next().map_err(SubscriptionError::Corrupt)? else {
                break;
            };
            copy.resize(copy.len().max(record.len()), 0);
            let bytes = record.copy_to(&mut copy).unwrap_or_default();
            read(&EventRef::parse(bytes).map_err(SubscriptionError::Record)?);
        }
        if claim.release() == Bell::Ring {
            // A daemon that is gone refills nothing, and the next wait says that it is gone.
            drop(self.refill.ring());
        }
        Ok(())
    }

    fn is_daemon_gone(&self) -> Result<bool, SubscriptionError> {
        peer_is_gone(self.client.as_fd()).map_err(SubscriptionError::Doorbell)
    }
}

/// Waits for each event without end. After an error there are no more events.
impl Iterator for Subscription {
    type Item = Result<Event, SubscriptionError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let next = self.next_within(Deadline::NEVER);
        self.has_failed = next.is_err();
        next.transpose()
    }
}

impl std::iter::FusedIterator for Subscription {}

/// The doorbell: readable when an event may be there, hung up when the daemon is gone. After
/// [`Subscription::resume`] it is another descriptor.
impl AsFd for Subscription {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.doorbell.as_fd()
    }
}
