//! Newtypes for every integer that names something.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// An object of the filesystem: `st_ino` on a mount. Unique over all branches and never reused
    /// while the [`FsCore`](crate::FsCore) lives; a node keeps its id in every branch that shares it.
    NodeId
}
id! {
    /// A writable view.
    BranchId
}
id! {
    /// A frozen view.
    SnapshotId
}
id! {
    /// The position of an event in its branch: commit order, from 1, without gaps.
    Seq
}
id! {
    /// A mount of a branch, as the daemon numbers them.
    MountId
}
id! {
    /// A control session, as the daemon numbers them.
    SessionId
}

impl NodeId {
    /// The root directory of every branch.
    pub const ROOT: Self = Self(1);
}
