//! Where a daemon keeps its branches, and what they take there.

use crate::bytes::Bytes;
use crate::ssz::{container, numbered};

numbered! {
    /// What a [`Store`] asks for. Numbers without a name are refused.
    pub enum StoreAction {
        /// Nothing but the answer.
        0 => Show,
        /// To write everything that the branches hold to one file, and to give room back to the disk.
        1 => Compact,
        /// To let the store take at most [`Store::most`] bytes on its disk, from now on and after
        /// restarts.
        2 => Limit,
    }
}

container! {
    /// Asks for the store of the daemon.
    pub struct Store {
        /// What is to be done first.
        pub action: StoreAction,
        /// For [`Limit`](StoreAction::Limit): how many bytes, or 0 for as many as the disk has.
        pub most: u64,
    }

    /// The store of the daemon.
    pub struct StoreReport {
        /// Its directory; empty when the branches are in memory.
        pub path: Bytes,
        /// Bytes of the files' content.
        pub content: u64,
        /// Bytes of the content file that nothing is in.
        pub free: u64,
        /// Bytes of the log since the last checkpoint.
        pub log: u64,
        /// How many branches there are.
        pub branches: u64,
        /// How many snapshots there are that users made.
        pub snapshots: u64,
        /// Bytes that it takes on its disk.
        pub taken: u64,
        /// Bytes that it may take there; 0 without a limit.
        pub most: u64,
        /// Says that it is nearly full and what can be done about it; empty when it is not.
        pub warning: String,
        /// Why the store takes no more changes; empty while it does.
        pub failure: String,
    }
}
