//! Exports of branches: of one on request, and of all that have changes before the daemon ends.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::id::{BranchId, Seq};
use agentfs_core::{Branch, Caller, FsCore};
use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{Code, Ending, Exported, Saved};
use agentfs_proto::ssz::Ssz as _;
use parking_lot::Mutex;

use crate::base::refusal::Refusal;
use crate::shared::branches::Origins;
use crate::shared::differences;
use crate::shared::pending_deletes::PendingDeletes;
use crate::shared::project;
use agentfs_export::command::apply_command;
use agentfs_export::{
    CancelToken, DefaultDirectory, ExportError, Identity, Target, default_directories,
};

/// How long exporting everything may take. systemd waits longer (packaging/agentfs.service), and so
/// does `agentfs shutdown`.
pub const SAVING: Duration = Duration::from_secs(50);
/// Bytes of the exports that are listed in a reply.
const LISTED_BYTES: usize = 24 * 1024;

/// Exports branches.
#[derive(Clone, Debug)]
pub(crate) struct Exporter {
    core: FsCore,
    pub(crate) origins: Arc<Origins>,
    pub(crate) pending_deletes: Arc<PendingDeletes>,
    /// The directory below the branches; empty without one.
    pub(crate) lower: Bytes,
    /// The identity of that directory when the daemon started.
    identity: Option<Identity>,
    /// What was found out about whether branches are as they were made.
    verdicts: Arc<Mutex<HashMap<BranchId, Verdict>>>,
}

/// Whether a branch was as it was made, after its own last change.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    after: Seq,
    /// `None` while it is being found out.
    is_as_made: Option<bool>,
}

/// A branch that was exported because the daemon ends.
#[derive(Debug)]
struct Rescued {
    branch: String,
    /// The last change of the branch that the export has.
    seq: Seq,
    directory: PathBuf,
    exported: Exported,
}

/// Why a branch was not exported.
#[derive(Debug)]
pub(crate) struct NotSaved {
    branch: String,
    why: String,
}

impl fmt::Display for NotSaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { branch, why } = self;
        write!(f, "the changes of {branch} cannot be exported: {why}")
    }
}

/// The branches that were exported.
#[derive(Debug, Default)]
pub(crate) struct Rescue(HashMap<BranchId, Rescued>);

impl Exporter {
    /// Creates the exporter of a new filesystem over this directory.
    pub(crate) fn new(core: &FsCore, lower: Option<&Path>) -> agentfs_core::Result<Self> {
        let origins = Arc::new(Origins::recover(core)?);
        Ok(Self {
            core: core.clone(),
            origins,
            pending_deletes: Arc::default(),
            lower: lower.map(Bytes::from).unwrap_or_default(),
            identity: lower.and_then(|path| Target::open(path).ok()?.identity().ok()),
            verdicts: Arc::default(),
        })
    }

    /// Writes what a branch changed to a new directory.
    pub(crate) fn export(
        &self,
        branch: &Branch,
        directory: &Path,
        stop: &CancelToken,
    ) -> Result<Exported, Refusal> {
        let changes = differences::find(&self.core, &self.origins, branch.id(), "")?;
        let project = project::path_for_export(&self.core, &self.lower);
        let origin = agentfs_export::Origin {
            project: project.as_path(),
            identity: self.identity,
        };
        let written = agentfs_export::write(branch, &caller(), &changes, origin, directory, stop);
        written.map_err(|error: ExportError| Refusal::new(Code::RESOURCES, error.to_string()))
    }

    /// Exports everything because a request asks the daemon to end. Afterwards nothing can be
    /// changed any more. When something cannot be exported, everything goes on as before.
    pub(crate) fn save_or_go_on(&self, stop: &CancelToken) -> Result<Ending, NotSaved> {
        let mut rescue = Rescue::default();
        // The first pass runs while programs go on, so that nothing stands still in vain; the
        // second exports what they changed meanwhile.
        let saved = self.save(&mut rescue, stop).and_then(|()| {
            self.core.seal();
            self.save(&mut rescue, stop)
        });
        if let Err(error) = saved {
            self.core.unseal();
            rescue.discard();
            return Err(error);
        }
        Ok(rescue.ending(self.lower.clone()))
    }

    /// Exports everything that can be exported, because the daemon ends. Nothing can be changed any
    /// more.
    pub(crate) fn save_and_end(&self) {
        self.core.seal();
        let stop = CancelToken::after(SAVING);
        for branch in self.unsaved(&Rescue::default()) {
            match self.save_one(&branch, &stop) {
                Ok(saved) => log(
                    &saved,
                    project::path_for_export(&self.core, &self.lower).as_path(),
                ),
                Err(error) => {
                    tracing::error!(branch = branch.name(), "{error}; they are lost");
                }
            }
        }
    }

    /// Exports the branches that have no export of their present state.
    fn save(&self, rescue: &mut Rescue, stop: &CancelToken) -> Result<(), NotSaved> {
        for branch in self.unsaved(rescue) {
            let saved = self.save_one(&branch, stop)?;
            log(
                &saved,
                project::path_for_export(&self.core, &self.lower).as_path(),
            );
            if let Some(earlier) = rescue.0.insert(branch.id(), saved) {
                earlier.discard();
            }
        }
        Ok(())
    }

    /// Returns the branches whose present state would be lost. A branch that is to be deleted is
    /// none of them.
    fn unsaved(&self, rescue: &Rescue) -> Vec<Branch> {
        let branches = self.core.branches().into_iter();
        let branches = branches.filter_map(|it| self.core.branch(it.id).ok());
        let is_saved = |branch: &Branch| {
            let saved = rescue.0.get(&branch.id());
            saved.is_some_and(|it| it.seq == branch.last_seq())
                || self.pending_deletes.is_done_with(branch)
                || self.is_as_made(branch.id())
        };
        branches.filter(|branch| !is_saved(branch)).collect()
    }

    /// Returns whether a branch is as it was made. If that cannot be found out, it is not.
    fn is_as_made(&self, branch: BranchId) -> bool {
        let found = differences::find(&self.core, &self.origins, branch, "");
        found.is_ok_and(|entries| entries.is_empty())
    }

    /// Returns whether it is known that a branch is as it was made. Comparing takes time in
    /// proportion to what the branch changed, so it is done once for each state of the branch, by
    /// the work that `start` is given. When that has ended, the answer is known.
    pub(crate) fn is_known_as_made(
        &self,
        id: BranchId,
        start: impl FnOnce(Box<dyn FnOnce() + Send>),
    ) -> bool {
        let Ok(branch) = self.core.branch(id) else {
            return false;
        };
        let after = branch.last_own_seq();
        if self
            .origins
            .base(id)
            .is_some_and(|base| after <= base.seq())
        {
            return true;
        }
        let mut verdicts = self.verdicts.lock();
        if let Some(known) = verdicts.get(&id).filter(|it| it.after == after) {
            return known.is_as_made == Some(true);
        }
        let is_as_made = None;
        verdicts.insert(id, Verdict { after, is_as_made });
        verdicts.retain(|id, _| self.core.branch(*id).is_ok());
        drop(verdicts);
        let exporter = self.clone();
        start(Box::new(move || exporter.find_verdict(id, after)));
        false
    }

    fn find_verdict(&self, id: BranchId, after: Seq) {
        let found = differences::find(&self.core, &self.origins, id, "");
        let mut verdicts = self.verdicts.lock();
        match found {
            Ok(entries) => {
                if let Some(known) = verdicts.get_mut(&id).filter(|it| it.after == after) {
                    known.is_as_made = Some(entries.is_empty());
                }
            }
            // It is tried again when something ends.
            Err(refusal) => {
                tracing::debug!(branch = %id, reason = refusal.0.message, "cannot be compared");
                verdicts.remove(&id);
            }
        }
    }

    /// Exports a branch to the first place that takes it.
    fn save_one(&self, branch: &Branch, stop: &CancelToken) -> Result<Rescued, NotSaved> {
        let project = self.lower.as_path();
        let seq = branch.last_seq();
        tracing::info!(
            branch = branch.name(),
            "exporting the branch, because the daemon ends"
        );
        let mut failures = Vec::new();
        for place in default_directories(project) {
            match self.save_at(&place, branch, stop) {
                Ok((directory, exported)) => {
                    return Ok(Rescued {
                        branch: branch.name().to_owned(),
                        seq,
                        directory,
                        exported,
                    });
                }
                Err(why) => failures.push(why),
            }
        }
        if failures.is_empty() {
            failures.push("there is no directory for them outside of the project".to_owned());
        }
        Err(NotSaved {
            branch: branch.name().to_owned(),
            why: failures.join("; "),
        })
    }

    fn save_at(
        &self,
        place: &DefaultDirectory,
        branch: &Branch,
        stop: &CancelToken,
    ) -> Result<(PathBuf, Exported), String> {
        let directory = place
            .prepare(self.lower.as_path(), branch.name())
            .map_err(|error| error.to_string())?;
        let exported = self
            .export(branch, &directory, stop)
            .map_err(|refusal| refusal.0.message)?;
        Ok((directory, exported))
    }
}

/// Returns the user that runs the daemon: the root of its branches.
fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Caller::new(uid.as_raw(), gid.as_raw())
}

fn log(saved: &Rescued, project: &Path) {
    let Rescued {
        branch,
        directory,
        exported,
        ..
    } = saved;
    let changes = exported.changes;
    let place = directory.display();
    let apply = apply_command(directory, project);
    tracing::warn!(
        branch,
        changes,
        "the daemon ends; what the branch changed is exported to {place}: apply it with {apply}"
    );
    for unread in &exported.unread {
        tracing::warn!(branch, path = %unread.path, "cannot be read: {}", unread.why);
    }
}

impl Rescued {
    /// Removes an export, because the branch is exported anew or not to be exported after all.
    fn discard(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            let path = self.directory.display();
            tracing::warn!(%path, %error, "an export that nobody needs stays behind");
        }
    }
}

impl Rescue {
    fn discard(&self) {
        self.0.values().for_each(Rescued::discard);
    }

    fn ending(self, lower: Bytes) -> Ending {
        let mut all: Vec<(BranchId, Rescued)> = self.0.into_iter().collect();
        all.sort_by_key(|(id, _)| *id);
        let saved_count = all.len() as u64;
        let mut bytes = 0;
        let saved = all.into_iter().map(|(_, it)| Saved {
            branch: it.branch,
            path: it.directory.as_path().into(),
            exported: it.exported,
        });
        // The reply lists as many as fit a frame.
        let saved = saved.take_while(|it| {
            bytes += it.ssz_len() + 4;
            bytes <= LISTED_BYTES
        });
        Ending {
            lower,
            saved: saved.collect(),
            saved_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use agentfs_core::event::{EventKind, EventSink};
    use agentfs_core::{Caller, FsConfig, FsCore};

    use super::Exporter;

    /// A sink without which nothing is counted.
    struct Ear;

    impl EventSink for Ear {
        fn on_event(&self, _: &EventKind) {}
    }

    #[test]
    fn a_branch_is_compared_once_for_each_of_its_states() {
        let (core, root) = (
            FsCore::new(FsConfig::default()).expect("one"),
            Caller::root(),
        );
        let _id = core
            .subscribe_events(std::sync::Arc::new(Ear))
            .expect("subscribed");
        let exporter = Exporter::new(&core, None).expect("an exporter");
        let (main, id) = (core.branch(FsCore::MAIN).expect("main"), FsCore::MAIN);
        let mut work = Vec::new();
        let ask = |work: &mut Vec<_>| exporter.is_known_as_made(id, |it| work.push(it));
        assert!(ask(&mut work), "nothing was changed");
        main.mkdir(&root, "/d", 0o755).expect("made");
        assert!(!ask(&mut work) && !ask(&mut work));
        assert_eq!(work.len(), 1);
        work.drain(..).for_each(|find| find());
        assert!(!ask(&mut work), "it has a directory");
        main.rmdir(&root, "/d").expect("removed");
        assert!(!ask(&mut work), "it is not known yet");
        work.drain(..).for_each(|find| find());
        assert!(ask(&mut work) && work.is_empty());
    }
}
