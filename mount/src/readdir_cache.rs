//! Remembers how far programs have read directories. Directories are read without being opened, so
//! there is no handle to keep the position in.

use std::collections::VecDeque;

use agentfs_core::id::NodeId;
use agentfs_core::{Branch, Caller, DirEntry, Errno, Pass};
use parking_lot::Mutex;

/// Entries asked of FsCore at a time: some of the last ones do not fit into the kernel's buffer and
/// are asked for again.
const ENTRIES_AT_A_TIME: usize = 64;
/// Passes that are remembered. For one that was forgotten, the host's directory is read again.
const PASSES: usize = 32;

/// The passes over merged directories that are under way, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct ReaddirCache(Mutex<VecDeque<(NodeId, Pass)>>);

impl ReaddirCache {
    fn of(&self, node: NodeId) -> Pass {
        let all = self.0.lock();
        let found = all.iter().find(|(other, _)| *other == node);
        found.map(|(_, pass)| pass.clone()).unwrap_or_default()
    }

    fn keep(&self, node: NodeId, pass: Option<Pass>) {
        let mut all = self.0.lock();
        all.retain(|(other, _)| *other != node);
        if let Some(pass) = pass.filter(Pass::is_some) {
            if all.len() == PASSES {
                all.pop_front();
            }
            all.push_back((node, pass));
        }
    }

    /// Passes the entries after `cookie` to `add`, until that returns true because there is no more
    /// room, or to the end.
    pub(crate) fn read(
        &self,
        branch: &Branch,
        caller: &Caller,
        node: NodeId,
        cookie: u64,
        mut add: impl FnMut(&DirEntry) -> bool,
    ) -> Result<(), Errno> {
        let mut pass = if cookie == 0 {
            Pass::default()
        } else {
            self.of(node)
        };
        let mut at = cookie;
        loop {
            let entries = match branch.readdir_node(caller, node, &mut pass, at, ENTRIES_AT_A_TIME)
            {
                Ok(entries) => entries,
                Err(error) if at == cookie => return Err(error),
                // The entries that were found so far are answered first.
                Err(_) => return Ok(()),
            };
            let Some(last) = entries.last() else {
                self.keep(node, None);
                return Ok(());
            };
            at = last.cookie;
            if entries.iter().any(&mut add) {
                self.keep(node, Some(pass));
                return Ok(());
            }
        }
    }
}
