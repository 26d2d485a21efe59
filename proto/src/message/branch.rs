//! Branches and snapshots.

use super::session::Token;
use crate::bytes::Bytes;
use crate::ssz::{container, numbered};

numbered! {
    /// How two states of one path differ. Numbers without a name are refused.
    pub enum DiffKind {
        /// Only the branch has it.
        0 => Added,
        /// Only the other side has it.
        1 => Removed,
        /// Content or target differ.
        2 => Content,
        /// Only mode, owner, times or extended attributes differ.
        3 => Attributes,
        /// It has another path in the branch.
        4 => Renamed,
        /// Something changed in this directory that lies too deep for a path (4,095 bytes): it is not
        /// listed, and is neither applied nor exported.
        5 => TooDeep,
    }
}

container! {
    /// Makes a branch.
    pub struct BranchCreate {
        /// Its name.
        pub name: String,
        /// The branch it starts from; empty for the session's own. Ignored with a snapshot.
        pub from_branch: String,
        /// The snapshot it starts from, by name or number; empty for none.
        pub from_snapshot: String,
        /// Whether nothing that happens outside shows in it. One that starts from a snapshot is as the
        /// snapshot.
        pub frozen: bool,
        /// How many bytes of content it may have beside those that it begins with; 0 for as many as the
        /// store has.
        pub max_size: u64,
        /// Patterns of what a frozen one leaves out, as in a .gitignore file.
        pub exclude: Vec<String>,
    }

    /// The branch is made.
    pub struct BranchCreated {
        /// Its number.
        pub id: u64,
    }

    /// Lists the branches, those numbered higher than `after`.
    pub struct BranchList {
        /// The number of the last branch read, or 0 for the first page.
        pub after: u64,
    }

    /// One branch.
    pub struct BranchInfo {
        /// Its number.
        pub id: u64,
        /// Its name.
        pub name: String,
        /// The number of the branch or snapshot it was made from, or 0.
        pub parent: u64,
        /// The position of its last event.
        pub seq: u64,
        /// When it was made, nanoseconds since the epoch.
        pub created_ns: u64,
        /// The process of the run that has it, from [`BranchHold`] to the end of its session; 0 for none.
        pub run: u32,
        /// Whether nothing that happens outside shows in it.
        pub frozen: bool,
    }

    /// A page of the list of branches.
    pub struct Branches {
        /// The branches, by number.
        pub branches: Vec<BranchInfo>,
        /// Whether there are more.
        pub more: bool,
    }

    /// Deletes a branch. One that a mount shows, or a run has, is refused.
    pub struct BranchDelete {
        /// Its name.
        pub name: String,
        /// Also when a run has it whose mount is gone.
        pub force: bool,
    }

    /// Says that a run has a branch, from before its mount is there until its changes are settled. It
    /// ends with the session. A branch that another session has is refused.
    pub struct BranchHold {
        /// The branch's name; empty for the session's own.
        pub name: String,
    }

    /// Compares a branch with another state.
    pub struct BranchDiff {
        /// The branch's name; empty for the session's own.
        pub name: String,
        /// A branch or snapshot to compare with; empty for what the branch was made from.
        pub against: String,
    }

    /// One difference.
    pub struct DiffEntry {
        /// How the path differs.
        pub kind: DiffKind,
        /// Type and permission bits in the branch (for a removed path: on the other side).
        pub mode: u32,
        /// Bytes in the branch.
        pub size: u64,
        /// The path.
        pub path: Bytes,
        /// For a renamed one: its path on the other side.
        pub from: Bytes,
    }

    /// A page of differences, parents before children.
    pub struct Diff {
        /// The differences.
        pub entries: Vec<DiffEntry>,
        /// For [`PageNext`]; 0 when this is the last page.
        pub next: u64,
    }

    /// Carries the changes of a branch over to the directory below.
    pub struct BranchApply {
        /// The branch's name; empty for the session's own.
        pub name: String,
        /// Whether to return only what would be done.
        pub dry_run: bool,
        /// Take the branch's side where both changed.
        pub force: bool,
    }

    /// One step of a [`BranchApply`].
    pub struct ApplyStep {
        /// What is done: `create`, `write`, `attributes`, `rename` or `remove`.
        pub action: String,
        /// The path.
        pub path: Bytes,
        /// Of a rename: the new path.
        pub to: Bytes,
    }

    /// What a [`BranchApply`] did. With conflicts it did nothing, unless it was forced, or the host
    /// changed something while it was at it: then what it did is no longer among the branch's changes.
    pub struct Applied {
        /// How many steps it took, or would take.
        pub step_count: u64,
        /// The first of them, in their order.
        pub steps: Vec<ApplyStep>,
        /// How many changes lie too deep for a path, and stay in the branch.
        pub too_deep_count: u64,
        /// How many paths the host changed since the branch saw them.
        pub conflict_count: u64,
        /// The first of them.
        pub conflicts: Vec<Bytes>,
        /// Whether that is all there was to do, so that the branch has no changes any more.
        pub is_complete: bool,
        /// How many paths stay because the branch never saw them, in directories that it removed.
        pub kept_count: u64,
        /// The first of them.
        pub kept: Vec<Bytes>,
    }

    /// Asks for the next page of a [`Diff`].
    pub struct PageNext {
        /// What the last page said.
        pub page: u64,
    }

    /// Makes a token that binds sessions to a branch.
    pub struct BranchToken {
        /// The branch's name; empty for the session's own.
        pub name: String,
    }

    /// The token is made.
    pub struct TokenMade {
        /// The token.
        pub token: Token,
    }

    /// Deletes a branch as soon as no mount shows it, unless it is changed until then.
    pub struct BranchRetire {
        /// The branch's name; empty for the session's own.
        pub name: String,
        /// The last event that may go with it, as [`BranchInfo`] has it. A later event keeps the
        /// branch, unless the lower directory was changed and the branch only shows that.
        pub seq: u64,
    }

    /// Writes what a branch changed to a new directory, from which `agentfs apply` carries it over.
    pub struct BranchExport {
        /// The branch's name; empty for the session's own.
        pub name: String,
        /// The directory, absolute. It is made.
        pub path: Bytes,
    }

    /// What was written.
    pub struct Exported {
        /// How many changes.
        pub changes: u64,
        /// Bytes of file content.
        pub bytes: u64,
        /// How many files of the branch could not be read, and are not among the changes.
        pub unread_count: u64,
        /// The first of them.
        pub unread: Vec<Unread>,
    }

    /// A file of a branch that cannot be read.
    pub struct Unread {
        /// Its path.
        pub path: Bytes,
        /// Why not, for people.
        pub why: String,
    }

    /// A branch whose changes were exported because the daemon ends.
    pub struct Saved {
        /// Its name.
        pub branch: String,
        /// The new directory.
        pub path: Bytes,
        /// What was written there.
        pub exported: Exported,
    }

    /// Makes a snapshot of a branch.
    pub struct SnapshotCreate {
        /// The snapshot's name; may be empty.
        pub name: String,
        /// The branch; empty for the session's own.
        pub branch: String,
        /// Whether it holds all that the branch shows, also what the branch has not changed.
        pub full: bool,
        /// Patterns of what a full one leaves out, as in a .gitignore file.
        pub exclude: Vec<String>,
    }

    /// The snapshot is made.
    pub struct SnapshotCreated {
        /// Its number.
        pub id: u64,
    }

    /// Lists the snapshots, those numbered higher than `after`.
    pub struct SnapshotList {
        /// The number of the last snapshot read, or 0 for the first page.
        pub after: u64,
    }

    /// One snapshot.
    pub struct SnapshotInfo {
        /// Its number.
        pub id: u64,
        /// Its name, or nothing.
        pub name: String,
        /// The branch it was made of.
        pub branch: u64,
        /// When, nanoseconds since the epoch.
        pub created_ns: u64,
    }

    /// A page of the list of snapshots.
    pub struct Snapshots {
        /// The snapshots, by number.
        pub snapshots: Vec<SnapshotInfo>,
        /// Whether there are more.
        pub more: bool,
    }

    /// Sets a branch back to a snapshot. Watchers hear the difference.
    pub struct SnapshotRestore {
        /// The snapshot, by name or number.
        pub snapshot: String,
        /// The branch; empty for the session's own.
        pub branch: String,
    }

    /// Deletes a snapshot.
    pub struct SnapshotDelete {
        /// The snapshot, by name or number.
        pub snapshot: String,
    }
}
