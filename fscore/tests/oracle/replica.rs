//! A copy of a branch's names that is built from the events alone.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Mutex;

use agentfs_core::event::{
    Change, Envelope, EventKind, EventSink, NodeRef, ObjectKind, Place, RenameHow,
};
use agentfs_core::id::{BranchId, NodeId, Seq};

/// A sink that remembers everything it hears.
#[derive(Default, Debug)]
pub(crate) struct Recorder(Mutex<Vec<Envelope>>);

impl Recorder {
    /// Returns the events since the last call.
    pub(crate) fn take(&self) -> Vec<Envelope> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Returns the events of one branch since the last call.
    pub(crate) fn take_of(&self, branch: BranchId) -> Vec<Envelope> {
        let mut all = self.0.lock().unwrap();
        let (of, others) = all.drain(..).partition(|event| event.branch == branch);
        *all = others;
        of
    }
}

impl EventSink for Recorder {
    fn on_event(&self, event: &EventKind) {
        unreachable!("on_envelope is overridden, yet on_event heard {event:?}");
    }

    fn on_envelope(&self, envelope: &Envelope) {
        self.0.lock().unwrap().push(envelope.clone());
    }
}

/// The names, each with its kind and its node.
pub(crate) type Names = BTreeMap<Vec<u8>, (ObjectKind, NodeId)>;

/// The names of one branch, by path.
#[derive(Clone, Default, Debug)]
pub(crate) struct Replica {
    pub(crate) names: Names,
    last: Option<Seq>,
}

impl Replica {
    /// Starts from a known tree.
    pub(crate) fn of(names: Names) -> Self {
        Self { names, last: None }
    }

    /// Returns the number of the last change that was applied.
    pub(crate) fn last(&self) -> Option<Seq> {
        self.last
    }

    /// Applies a change to the names.
    ///
    /// # Errors
    ///
    /// Fails when the event contradicts those before it: there is a gap, or a name is already there
    /// or is not there.
    pub(crate) fn apply(&mut self, envelope: &Envelope) -> Result<(), String> {
        let follows = self
            .last
            .is_none_or(|Seq(last)| envelope.seq == Seq(last + 1));
        self.last = Some(envelope.seq);
        let outcome = if follows {
            self.change(&envelope.change)
        } else {
            Err("a gap".into())
        };
        outcome.map_err(|why| format!("{why}: {envelope:?}"))
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Created { node, at, .. } => {
                self.is_free(at)?;
                self.names.insert(path(at), what(node));
                Ok(())
            }
            Change::Removed { node, at } => self.lose(node, at),
            Change::Renamed {
                node,
                from,
                to,
                how,
            } => match how {
                RenameHow::Free => self.rename(node, from, to),
                RenameHow::Replaced(target) => {
                    self.lose(target, to)?;
                    self.rename(node, from, to)
                }
                RenameHow::ExchangeFirst(_) => {
                    self.is(node, from)?;
                    let (one, two) = (self.take(&path(from)), self.take(&path(to)));
                    self.put(&path(to), one);
                    self.put(&path(from), two);
                    Ok(())
                }
                RenameHow::ExchangeSecond(_) => self.is(node, to),
            },
            Change::Written { node, at, .. }
            | Change::Resized { node, at, .. }
            | Change::Attributes { node, at, .. }
            | Change::Xattr { node, at, .. } => match at {
                // The name may belong to another object by now, if the node has lost it.
                Some(at) if !node.open => self.is(node, at),
                _ => Ok(()),
            },
            Change::BranchCreated { .. }
            | Change::SnapshotCreated { .. }
            | Change::Opened { .. }
            | Change::Read { .. }
            | Change::Closed { .. } => Ok(()),
        }
    }

    fn is(&self, node: &NodeRef, at: &Place) -> Result<(), String> {
        match self.names.get(&path(at)) {
            Some(known) if *known == what(node) => Ok(()),
            known => Err(format!("the name leads to {known:?}")),
        }
    }

    fn is_free(&self, at: &Place) -> Result<(), String> {
        let is_dir = |dir: &[u8]| self.names.get(dir).is_some_and(|(kind, _)| kind.is_dir());
        if !at.dir.is_empty() && !is_dir(&at.dir) {
            return Err("the directory is not there".into());
        }
        match self.names.get(&path(at)) {
            Some(known) => Err(format!("the name leads to {known:?}")),
            None => Ok(()),
        }
    }

    fn lose(&mut self, node: &NodeRef, at: &Place) -> Result<(), String> {
        self.is(node, at)?;
        match self.take(&path(at)).len() {
            1 => Ok(()),
            _ => Err("the directory was not empty".into()),
        }
    }

    fn rename(&mut self, node: &NodeRef, from: &Place, to: &Place) -> Result<(), String> {
        self.is(node, from)?;
        self.is_free(to)?;
        let moved = self.take(&path(from));
        self.put(&path(to), moved);
        Ok(())
    }

    /// Takes out a name and all names below it, which are returned relative to it.
    fn take(&mut self, top: &[u8]) -> Names {
        let below = [top, b"/"].concat();
        let inside = |name: &[u8]| name == top || name.starts_with(&below);
        let (taken, left): (Names, Names) = std::mem::take(&mut self.names)
            .into_iter()
            .partition(|(name, _)| inside(name));
        self.names = left;
        taken
            .into_iter()
            .map(|(name, what)| (name[top.len()..].to_vec(), what))
            .collect()
    }

    fn put(&mut self, top: &[u8], names: Names) {
        for (name, what) in names {
            self.names.insert([top, &name].concat(), what);
        }
    }
}

fn what(node: &NodeRef) -> (ObjectKind, NodeId) {
    (node.kind, node.id)
}

fn path(place: &Place) -> Vec<u8> {
    let path: PathBuf = place.path();
    path.as_os_str().as_bytes().to_vec()
}

/// Returns the events of each branch, in the order in which they were heard.
pub(crate) fn by_branch(events: Vec<Envelope>) -> HashMap<BranchId, Vec<Envelope>> {
    let mut of: HashMap<BranchId, Vec<Envelope>> = HashMap::new();
    for event in events {
        of.entry(event.branch).or_default().push(event);
    }
    of
}
