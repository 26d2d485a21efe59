//! Compares branches and snapshots with a naive model: a branch is the list of the operations that
//! led to it, a snapshot is a copy of that list. A branch must show what a new filesystem shows
//! after the same operations, and nothing else may move when one branch does.

use std::path::PathBuf;
use std::sync::Arc;

use agentfs_core::event::{Envelope, Origin};
use agentfs_core::id::{BranchId, SnapshotId};
use agentfs_core::{Branch, Caller, FsCore, PathChange, Version};
use agentfs_testkit::fs_oracle::generate::Actor;
use agentfs_testkit::fs_oracle::op::Step;
use agentfs_testkit::fs_oracle::walk::{Seen, tree};
use agentfs_testkit::random::Random;

use crate::difference::{Contents, contents, differing, make};
use crate::fscore::{Core, filesystem, filesystem_of};
use crate::replica::{Names, Recorder, Replica, by_branch};
use crate::run::each_seed;

#[test]
fn branches_and_snapshots_are_as_separate_as_copies() {
    each_seed(600, |seed| Play::new(seed, filesystem(None), None).run());
}

/// The same, and the process ends and begins anew now and then.
#[test]
fn branches_and_snapshots_in_a_store_outlive_the_process() {
    each_seed(200, |seed| {
        let store = tempfile::tempdir().unwrap();
        let fs = filesystem_of(store.path());
        Play::new(seed, fs, Some(store.path().to_owned())).run()
    });
}

/// One step in the history of a branch.
#[derive(Clone, Copy, Debug)]
enum Past {
    Step(Step),
    /// Everything was closed.
    Closed,
}

/// A branch beside what the model knows of it.
struct Line {
    id: BranchId,
    core: Core,
    actor: Actor,
    past: Vec<Past>,
    seen: Vec<Seen>,
    /// What the branch's events report.
    replica: Replica,
}

#[derive(Clone)]
struct Photo {
    id: SnapshotId,
    actor: Actor,
    past: Vec<Past>,
    seen: Vec<Seen>,
    names: Names,
}

struct Play {
    fs: FsCore,
    /// Where the filesystem lies if it is on disk.
    store: Option<PathBuf>,
    rng: Random,
    recorder: Arc<Recorder>,
    lines: Vec<Line>,
    photos: Vec<Photo>,
}

fn root() -> Caller {
    Caller::root()
}

/// Returns what a branch shows, without touching what is open in it.
fn look(branch: &Branch) -> Vec<Seen> {
    let mut core = Core::new(branch.clone(), false);
    tree(|step| core.run(step))
}

/// Returns all names of a branch but the root.
pub(crate) fn names_of(branch: &Branch) -> Names {
    let mut names = Names::new();
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        for entry in branch.list(&root(), &dir).unwrap() {
            use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
            let path = dir.join(std::ffi::OsStr::from_bytes(&entry.name));
            if entry.kind.is_dir() {
                dirs.push(path.clone());
            }
            names.insert(path.into_os_string().into_vec(), (entry.kind, entry.node));
        }
    }
    names
}

impl Play {
    fn new(seed: u64, fs: FsCore, store: Option<PathBuf>) -> Self {
        let recorder = Arc::new(Recorder::default());
        fs.subscribe_events(recorder.clone()).unwrap();
        let mut play = Self {
            fs,
            store,
            rng: Random::new(seed),
            recorder,
            lines: Vec::new(),
            photos: Vec::new(),
        };
        play.add_line(FsCore::MAIN, Actor::new(seed), Vec::new(), Names::new());
        play
    }

    fn add_line(&mut self, id: BranchId, mut actor: Actor, past: Vec<Past>, names: Names) {
        let branch = self.fs.branch(id).unwrap();
        actor.closed_all();
        actor.reseed(self.rng.next_u64());
        let seen = look(&branch);
        let core = Core::new(branch, false);
        self.lines.push(Line {
            id,
            core,
            actor,
            past,
            seen,
            replica: Replica::of(names),
        });
    }

    fn run(mut self) -> Result<(), String> {
        for _ in 0..self.rng.range(8..30) {
            match self.rng.below(20) {
                0..=4 | 7..=9 => self.work(),
                5 | 6 if self.store.is_none() => self.work(),
                10 | 11 => self.snapshot(),
                12 | 13 if !self.photos.is_empty() => self.branch_from_snapshot(),
                14 => self.branch_from_current(),
                15 | 16 if !self.photos.is_empty() => self.restore(),
                17 if self.lines.len() > 1 => self.delete_branch(),
                18 if self.photos.len() > 1 => self.delete_snapshot(),
                5 if self.store.is_some() => self.restart(),
                6 if self.store.is_some() => self.fs.checkpoint().unwrap(),
                _ => self.compare_versions()?,
            }
            self.listen()?;
            self.check_nothing_else_moved()?;
        }
        self.check_against_copies()?;
        self.check_replicas()
    }

    fn any_line(&mut self) -> usize {
        self.rng.below(self.lines.len())
    }

    fn any_photo(&mut self) -> usize {
        self.rng.below(self.photos.len())
    }

    fn work(&mut self) {
        let (at, count) = (self.any_line(), 1 + self.rng.below(25));
        let line = &mut self.lines[at];
        let steps = line.actor.act(count, &mut |step| line.core.run(step));
        line.past.extend(steps.into_iter().map(Past::Step));
        line.seen = look(&line.core.branch);
    }

    fn snapshot(&mut self) {
        let at = self.any_line();
        let line = &self.lines[at];
        let id = self.fs.snapshot_create(&root(), line.id, "photo").unwrap();
        let mut past = line.past.clone();
        past.push(Past::Closed);
        let names = names_of(&line.core.branch);
        let (actor, seen) = (line.actor.clone(), line.seen.clone());
        self.photos.push(Photo {
            id,
            actor,
            past,
            seen,
            names,
        });
    }

    fn branch_from_snapshot(&mut self) {
        let at = self.any_photo();
        let photo = self.photos[at].clone();
        let id = self
            .fs
            .branch_create_from_snapshot(&root(), photo.id, "child")
            .unwrap();
        self.add_line(id, photo.actor, photo.past, photo.names);
    }

    fn branch_from_current(&mut self) {
        let at = self.any_line();
        let line = &self.lines[at];
        let id = self
            .fs
            .branch_create_from_current(&root(), line.id, "twin")
            .unwrap();
        let mut past = line.past.clone();
        past.push(Past::Closed);
        let names = names_of(&line.core.branch);
        self.add_line(id, line.actor.clone(), past, names);
    }

    fn restore(&mut self) {
        let (to, at) = (self.any_photo(), self.any_line());
        let photo = self.photos[to].clone();
        let line = &mut self.lines[at];
        line.core.restart();
        self.fs.restore(&root(), line.id, photo.id).unwrap();
        line.actor = photo.actor;
        line.actor.closed_all();
        line.actor.reseed(self.rng.next_u64());
        line.past = photo.past;
        line.seen = photo.seen;
    }

    /// Closes everything, forgets the filesystem as a killed process does, and opens its store.
    fn restart(&mut self) {
        let nothing = filesystem(None);
        for line in &mut self.lines {
            line.core.restart();
            line.actor.closed_all();
            line.past.push(Past::Closed);
            line.core = Core::new(nothing.branch(FsCore::MAIN).unwrap(), false);
        }
        self.listen().unwrap();
        if self.rng.below(2) == 0 {
            self.fs.checkpoint().unwrap();
        }
        self.fs = nothing;
        self.fs = filesystem_of(self.store.as_ref().unwrap());
        self.fs.subscribe_events(self.recorder.clone()).unwrap();
        for line in &mut self.lines {
            line.core = Core::new(self.fs.branch(line.id).unwrap(), false);
            // Numbers are left out, and none is given twice.
            assert!(Some(line.core.branch.last_seq()) > line.replica.last());
            line.replica = Replica::of(names_of(&line.core.branch));
        }
    }

    fn delete_branch(&mut self) {
        let at = 1 + self.rng.below(self.lines.len() - 1);
        let mut line = self.lines.remove(at);
        line.core.restart();
        self.fs.branch_delete(line.id).unwrap();
        assert!(self.fs.branch(line.id).is_err(), "a deleted branch is gone");
        let _late = self.recorder.take_of(line.id);
    }

    fn delete_snapshot(&mut self) {
        let at = self.any_photo();
        self.fs.snapshot_delete(self.photos.remove(at).id).unwrap();
    }

    /// Feeds every replica with its branch's events.
    fn listen(&mut self) -> Result<(), String> {
        let mut heard = by_branch(self.recorder.take());
        for line in &mut self.lines {
            for event in heard.remove(&line.id).unwrap_or_default() {
                line.replica.apply(&event)?;
            }
        }
        if heard.is_empty() {
            Ok(())
        } else {
            Err(format!("events of no branch: {heard:?}"))
        }
    }

    fn check_nothing_else_moved(&self) -> Result<(), String> {
        for line in &self.lines {
            same(&line.seen, &look(&line.core.branch), || {
                format!("branch {}", line.id)
            })?;
        }
        Ok(())
    }

    /// Checks each snapshot by a branch made from it, and each branch by doing all its operations
    /// again.
    fn check_against_copies(&mut self) -> Result<(), String> {
        for photo in &self.photos {
            let id = self
                .fs
                .branch_create_from_snapshot(&root(), photo.id, "look")
                .unwrap();
            let branch = self.fs.branch(id).unwrap();
            same(&photo.seen, &look(&branch), || {
                format!("snapshot {}", photo.id)
            })?;
            drop(branch);
            self.fs.branch_delete(id).unwrap();
            let _told = self.recorder.take_of(id);
        }
        for line in &self.lines {
            let fs = filesystem(None);
            let mut copy = Core::new(fs.branch(FsCore::MAIN).unwrap(), false);
            for past in &line.past {
                match past {
                    Past::Step(step) => drop(copy.run(*step)),
                    Past::Closed => copy.restart(),
                }
            }
            let what = || format!("branch {} against a copy", line.id);
            same(&look(&copy.branch), &line.seen, what)?;
        }
        Ok(())
    }

    /// Checks that a reader that only had the events knows all names.
    fn check_replicas(&self) -> Result<(), String> {
        for line in &self.lines {
            let names = names_of(&line.core.branch);
            if line.replica.names != names {
                let (id, known) = (line.id, &line.replica.names);
                return Err(format!(
                    "branch {id}: the events give {known:?}, it is {names:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks that the difference of two versions turns the one into the other, and equals what a
    /// comparison of everything finds.
    fn compare_versions(&mut self) -> Result<(), String> {
        let old = self.any_version();
        let new = self.any_version();
        let differences: Vec<PathChange> = self.fs.diff(old.0, new.0).unwrap().collect();
        let mut names = old.1;
        let mut modified = Vec::new();
        for difference in &differences {
            make(&mut names, difference, &mut modified)
                .map_err(|why| format!("{why} at {difference:?} in {differences:#?}"))?;
        }
        if names != new.1 {
            return Err(format!("{differences:#?} gives {names:?}, not {:?}", new.1));
        }
        let expected = differing(&old.2, &new.2);
        modified.sort();
        modified.dedup();
        if modified == expected {
            Ok(())
        } else {
            Err(format!(
                "modified are {expected:?}, told are {modified:?} by {differences:#?}"
            ))
        }
    }

    fn any_version(&mut self) -> (Version, Names, Contents) {
        if self.photos.is_empty() || self.rng.chance(50) {
            let at = self.any_line();
            let line = &self.lines[at];
            let names = names_of(&line.core.branch);
            let contents = contents(&names, &line.seen);
            return (Version::Branch(line.id), names, contents);
        }
        let at = self.any_photo();
        let photo = &self.photos[at];
        let contents = contents(&photo.names, &photo.seen);
        (Version::Snapshot(photo.id), photo.names.clone(), contents)
    }
}

fn same(expected: &[Seen], got: &[Seen], what: impl Fn() -> String) -> Result<(), String> {
    let differ = expected
        .iter()
        .zip(got)
        .find(|(expected, got)| expected != got);
    match differ {
        Some((expected, got)) => Err(format!("{}: {expected:?} is now {got:?}", what())),
        None if expected.len() != got.len() => Err(format!("{}: another number of names", what())),
        None => Ok(()),
    }
}

#[test]
fn a_restore_is_told_as_the_difference() {
    let fs = filesystem(None);
    let branch = fs.branch(FsCore::MAIN).unwrap();
    let mut core = Core::new(branch.clone(), false);
    let mut actor = Actor::new(7);
    let _steps = actor.act(60, &mut |step| core.run(step));
    core.restart();
    let before = names_of(&branch);
    let photo = fs.snapshot_create(&root(), branch.id(), "before").unwrap();
    let _more = actor.act(80, &mut |step| core.run(step));
    core.restart();

    let recorder = Arc::new(Recorder::default());
    let mut replica = Replica::of(names_of(&branch));
    assert_ne!(replica.names, before, "the steps change something");
    fs.subscribe_events(recorder.clone()).unwrap();
    fs.restore(&root(), branch.id(), photo).unwrap();
    let events: Vec<Envelope> = recorder.take();
    assert!(events.iter().all(|event| event.origin == Origin::Restore));
    for event in &events {
        replica.apply(event).unwrap();
    }
    assert_eq!(replica.names, before);
    assert_eq!(names_of(&branch), before);
}
