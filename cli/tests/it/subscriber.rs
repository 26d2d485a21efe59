//! Subscribes natively, as a program does.

use std::sync::Mutex;

use agentfs_client::{
    Client, Event, EventKind, Subscription, SubscriptionError, SubscriptionOptions,
};
use agentfs_proto::record::Kind;

use agentfs_testkit::child::soon;

/// A watch of a tree with its ring.
pub(crate) struct Subscriber(Mutex<Subscription>);

/// One event as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Heard {
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) path: String,
    pub(crate) new_path: String,
}

impl Heard {
    fn of(event: &Event) -> Self {
        let none = std::path::Path::new("");
        let (kind, to) = match &event.kind {
            EventKind::Created => (Kind::CREATED, none),
            EventKind::Removed => (Kind::REMOVED, none),
            EventKind::Modified => (Kind::MODIFIED, none),
            EventKind::Renamed { to } => (Kind::RENAMED, to.as_path()),
            EventKind::BranchCreated => (Kind::BRANCH_CREATED, none),
            EventKind::SnapshotCreated => (Kind::SNAPSHOT_CREATED, none),
            EventKind::Overflow => (Kind::OVERFLOW, none),
            EventKind::Opened | EventKind::Read | EventKind::Closed | EventKind::Resumed => {
                panic!("{:?} was not asked for", event.kind)
            }
            _ => panic!("{:?} is not known here", event.kind),
        };
        Self {
            kind,
            seq: event.sequence,
            path: event.path.to_str().unwrap().to_owned(),
            new_path: to.to_str().unwrap().to_owned(),
        }
    }
}

impl Subscriber {
    pub(crate) fn new(client: Client, path: &str, capacity: u32) -> Self {
        let options = SubscriptionOptions::new()
            .path(path)
            .ring_capacity(capacity);
        Self(Mutex::new(Subscription::over(client, options).unwrap()))
    }

    /// Returns the events until `is_last` returns true for one, or the daemon is gone. What is in
    /// the ring together with the last event is among them.
    pub(crate) fn until(&self, mut is_last: impl FnMut(&Heard) -> bool) -> Vec<Heard> {
        let mut subscription = self.0.lock().unwrap();
        let (mut all, mut is_done) = (Vec::new(), false);
        loop {
            let next = if is_done {
                subscription.try_next()
            } else {
                let next = subscription.next_within(soon());
                assert!(!matches!(next, Ok(None)), "nothing more came after {all:?}");
                next
            };
            match next {
                Ok(Some(event)) => {
                    let heard = Heard::of(&event);
                    is_done |= is_last(&heard);
                    all.push(heard);
                }
                Ok(None) | Err(SubscriptionError::DaemonGone) => return all,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Returns everything up to the creation of this path.
    pub(crate) fn until_created(&self, path: &str) -> Vec<Heard> {
        self.until(|heard| heard.kind == Kind::CREATED && heard.path == path)
    }
}

/// Returns `kind path` or `renamed path -> path`, one a line.
pub(crate) fn lines(heard: &[Heard]) -> Vec<String> {
    let line = |it: &Heard| match it.new_path.as_str() {
        "" => format!("{} {}", it.kind, it.path),
        new => format!("{} {} -> {new}", it.kind, it.path),
    };
    heard.iter().map(line).collect()
}
