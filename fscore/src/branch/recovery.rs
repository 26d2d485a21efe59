//! The branches and snapshots of a store, read from its log.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::fs::FsCore;
use super::journal::{Counts, VersionId, kind};
use super::last_changes::{FindChanges, LastChanges, LastTrees};
use crate::log::Record;
use crate::model::attr::Nanos;
use crate::model::id::{BaseId, BranchId, NodeId, Seq, SnapshotId};
use crate::store::format::KnownExtents;
use crate::store::format::bytes::{Decoder, Malformed};
use crate::store::tree::{Base, Shared, Tree};

/// A record that says what no store says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadRecord {
    number: u64,
    why: Malformed,
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} makes no sense: {}", self.number, self.why)
    }
}

impl std::error::Error for BadRecord {}

/// A branch or snapshot as far as it has been read.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) name: Arc<str>,
    pub(crate) from: BranchId,
    pub(crate) seq: Seq,
    /// When it was made, if that is known.
    pub(crate) made: Option<Nanos>,
    pub(crate) tree: Tree,
}

/// All branches and snapshots.
pub(crate) type Versions = BTreeMap<VersionId, Version>;
/// What frozen ones of those are based on.
pub(crate) type Bases = BTreeMap<BaseId, Arc<Base>>;

/// What the records so far have said.
#[derive(Debug)]
pub(crate) struct Recovered {
    shared: Arc<Shared>,
    known: KnownExtents,
    pub(crate) versions: Versions,
    /// Those of which the last record is not there yet.
    unfinished: BTreeMap<VersionId, Tree>,
    pub(crate) counts: Counts,
    last: LastTrees,
    find_changes: FindChanges,
    /// How many bytes the store may take on its disk.
    pub(crate) most: u64,
    /// What could not be read, of a store of which all else is wanted.
    lost: Vec<String>,
}

/// How many things are named that could not be read.
const MOST_NAMED: usize = 20;

impl Recovered {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            known: KnownExtents::new(shared.extents.clone()),
            shared,
            versions: BTreeMap::new(),
            unfinished: BTreeMap::new(),
            counts: Counts::default(),
            last: LastTrees::default(),
            find_changes: |_, _| Ok(Vec::new()),
            most: u64::MAX,
            lost: Vec::new(),
        }
    }

    /// Keeps what the records from this one on change, for readers that may not have heard of it: a mount
    /// goes on, and with it the programs that watch there.
    pub(crate) fn keep_changes_from(&mut self, record: u64) {
        if self.shared.config.keep_nameless {
            self.last = LastTrees::from(record);
        }
    }

    /// Sets how the changes are found.
    pub(crate) fn find_changes_by(&mut self, find: FindChanges) {
        self.find_changes = find;
    }

    /// Makes the changes of one record.
    pub(crate) fn replay(&mut self, record: &Record) -> Result<(), BadRecord> {
        let mut decoder = Decoder::new(&record.payload);
        let decoder = &mut decoder;
        let done = match record.kind {
            kind::CHANGE => self.change(record.number, decoder),
            kind::VERSION => self.version(decoder, None),
            kind::DATED => decoder
                .signed()
                .and_then(|made| self.version(decoder, Some(made))),
            kind::PART => self.part(decoder),
            kind::LIMIT => decoder.number().map(|most| self.most = most),
            kind::DELETED => self.deleted(decoder),
            kind::OPENED => Counts::read(decoder).map(|counts| self.opened(counts)),
            other => Err(Malformed::Kind("record", other.number().into())),
        };
        done.map_err(|why| BadRecord {
            number: record.number,
            why,
        })
    }

    fn opened(&mut self, counts: Counts) {
        self.shared.skip_numbers(counts.nodes);
        self.counts = counts;
    }

    fn change(&mut self, record: u64, decoder: &mut Decoder<'_>) -> Result<(), Malformed> {
        let branch = decoder.number()?;
        let seq = Seq(decoder.counted()?);
        let last = &mut self.last;
        let version = self.versions.get_mut(&VersionId::Branch(BranchId(branch)));
        let Some(version) = version else {
            // Whoever still had the branch when it was deleted could go on with it.
            return match branch <= self.counts.branches {
                true => Ok(()),
                false => Err(Malformed::Unknown("branch", branch)),
            };
        };
        let branch = BranchId(branch);
        last.note(record, branch, version.seq, &version.tree);
        version.seq = seq;
        version.tree.replay(decoder, &mut self.known)
    }

    /// Makes the changes of one record. If they make no sense, none of them is made, and what the record
    /// says is lost.
    pub(crate) fn salvage(&mut self, record: &Record) {
        // A clone of a tree takes no time, and what a record is about is in one of them.
        let before = self.versions.clone();
        if let Err(bad) = self.replay(record) {
            self.versions = before;
            self.lose(&bad);
        }
    }

    /// Records what could not be read.
    pub(crate) fn lose(&mut self, what: &dyn fmt::Display) {
        if self.lost.len() < MOST_NAMED {
            self.lost.push(what.to_string());
        }
    }

    /// Ends the reading of a damaged store. A version that makes no sense is left out. Returns also what
    /// was lost.
    pub(crate) fn finish_salvage(mut self) -> (Versions, Bases, Vec<String>) {
        self.versions
            .retain(|id, _| !matches!(id, VersionId::Base(_)));
        let mut bad = Vec::new();
        for (id, version) in &mut self.versions {
            let tree = version.tree.without_orphans();
            let root = tree.inodes().get(NodeId::ROOT.0);
            let is_rooted = root.is_some_and(|root| root.as_dir().is_some());
            let checked = match is_rooted {
                true => tree.check(None),
                false => Err(Malformed::Unknown("object", NodeId::ROOT.0)),
            };
            version.tree = tree;
            match checked {
                Ok(wrong) => version.tree.correct_links(&wrong),
                Err(why) => bad.push((*id, why)),
            }
        }
        for (id, why) in bad {
            let name = self.versions.remove(&id).map(|version| version.name);
            let name = name.unwrap_or_default();
            self.lose(&format_args!("{name} cannot be read: {why}"));
        }
        if let Some(lower) = &self.shared.lower {
            lower.recovered();
        }
        let bases = std::mem::take(&mut self.known.bases);
        (self.versions, bases, self.lost)
    }

    /// Reads a part of a version. A first one takes the place of what an attempt has left that failed.
    fn part(&mut self, decoder: &mut Decoder<'_>) -> Result<(), Malformed> {
        let id = VersionId::read(decoder)?;
        let id = id.ok_or(Malformed::Kind("version", 0))?;
        if decoder.byte()? == 1 {
            self.unfinished.remove(&id);
        } else if !self.unfinished.contains_key(&id) {
            return Err(id.unknown());
        }
        let mut tree = self.begun(id, decoder)?;
        tree.replay(decoder, &mut self.known)?;
        self.unfinished.insert(id, tree);
        Ok(())
    }

    /// Reads what a version is based on, and returns its tree as far as it was read before.
    fn begun(&mut self, id: VersionId, decoder: &mut Decoder<'_>) -> Result<Tree, Malformed> {
        let base = VersionId::read(decoder)?;
        if let Some(begun) = self.unfinished.remove(&id) {
            return Ok(begun);
        }
        match base {
            None => Ok(Tree::unfilled(self.shared.clone())),
            Some(base) => {
                let base = self.versions.get(&base).ok_or(base.unknown())?;
                Ok(base.tree.clone())
            }
        }
    }

    fn version(&mut self, decoder: &mut Decoder<'_>, made: Option<Nanos>) -> Result<(), Malformed> {
        let id = VersionId::read(decoder)?;
        let id = id.ok_or(Malformed::Kind("version", 0))?;
        let name: Arc<str> = String::from_utf8_lossy(decoder.text()?).into();
        let from = BranchId(decoder.number()?);
        let seq = Seq(decoder.counted()?);
        let mut tree = self.begun(id, decoder)?;
        tree.replay(decoder, &mut self.known)?;
        if self.versions.contains_key(&id) {
            return Err(id.twice());
        }
        match id {
            VersionId::Branch(BranchId(id)) => self.counts.branches = self.counts.branches.max(id),
            VersionId::Snapshot(SnapshotId(id)) => {
                self.counts.snapshots = self.counts.snapshots.max(id);
            }
            VersionId::Base(id) => {
                let base = Base::recovered(id, &name, tree.clone());
                self.known.bases.insert(id, Arc::new(base));
            }
        }
        let version = Version {
            name,
            from,
            seq,
            made,
            tree,
        };
        self.versions.insert(id, version);
        Ok(())
    }

    fn deleted(&mut self, decoder: &mut Decoder<'_>) -> Result<(), Malformed> {
        let id = VersionId::read(decoder)?;
        let id = id.ok_or(Malformed::Kind("version", 0))?;
        if let VersionId::Base(id) = id {
            self.known.bases.remove(&id);
        }
        self.versions.remove(&id).map(drop).ok_or(id.unknown())
    }

    /// Ends the reading: what no extent takes is free from now on. Objects without a name were held
    /// by handles, which are gone; they are kept only if the configuration says so.
    pub(crate) fn finish(mut self) -> Result<(Versions, Bases, LastChanges), Malformed> {
        self.unfinished.clear();
        self.versions
            .retain(|id, _| !matches!(id, VersionId::Base(_)));
        let main = VersionId::Branch(FsCore::MAIN);
        if !self.versions.is_empty() && !self.versions.contains_key(&main) {
            return Err(main.unknown());
        }
        let mut checked: Option<Tree> = None;
        for version in self.versions.values_mut() {
            let root = version.tree.inodes().get(NodeId::ROOT.0);
            if root.is_none_or(|root| root.as_dir().is_none()) {
                return Err(Malformed::Unknown("object", NodeId::ROOT.0));
            }
            if !self.shared.config.keep_nameless {
                version.tree = version.tree.without_orphans();
            }
            let wrong = version.tree.check(checked.as_ref())?;
            checked = Some(version.tree.clone());
            version.tree.correct_links(&wrong);
        }
        if let Some(lower) = &self.shared.lower {
            lower.recovered();
        }
        // Their trees are gone before it is looked which content is in use: it may have been used again.
        let branches = self.versions.iter().filter_map(|(id, version)| match id {
            VersionId::Branch(id) => Some((*id, version)),
            VersionId::Snapshot(_) | VersionId::Base(_) => None,
        });
        let last: HashMap<_, _> = branches
            .map(|(id, version)| {
                let now = (version.seq, &version.tree);
                (id, self.last.changes_of(id, now, self.find_changes))
            })
            .collect();
        drop(self.last);
        let bases = std::mem::take(&mut self.known.bases);
        let live = self.known.into_live();
        self.shared
            .extents
            .recovered(live)
            .map_err(Malformed::Extent)?;
        Ok((self.versions, bases, LastChanges::new(last)))
    }
}

impl VersionId {
    fn read(decoder: &mut Decoder<'_>) -> Result<Option<Self>, Malformed> {
        Ok(match decoder.byte()? {
            0 => None,
            1 => Some(Self::Branch(BranchId(decoder.counted()?))),
            2 => Some(Self::Snapshot(SnapshotId(decoder.counted()?))),
            3 => Some(Self::Base(BaseId(decoder.counted()?))),
            other => return Err(Malformed::Kind("version", other.into())),
        })
    }

    fn twice(self) -> Malformed {
        match self {
            Self::Branch(id) => Malformed::Twice("branch", id.0),
            Self::Snapshot(id) => Malformed::Twice("snapshot", id.0),
            Self::Base(id) => Malformed::Twice("base", id.0),
        }
    }

    fn unknown(self) -> Malformed {
        match self {
            Self::Branch(id) => Malformed::Unknown("branch", id.0),
            Self::Snapshot(id) => Malformed::Unknown("snapshot", id.0),
            Self::Base(id) => Malformed::Unknown("base", id.0),
        }
    }
}
