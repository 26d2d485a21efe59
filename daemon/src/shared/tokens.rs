//! The tokens that bind sessions to branches.
//!
//! A branch has one token, which lives as long as the branch does: in a store it outlives the daemon, so
//! that programs which have it in their environment are known to the next one. A token gives no more
//! rights than its branch, so whoever asks for a second one gets the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use agentfs_core::FsCore;
use agentfs_core::id::BranchId;
use agentfs_proto::message::Token;
use parking_lot::Mutex;

use crate::shared::session_list::SessionList;

/// The name of the list in a store: a line for each branch, with its token and its number.
const LIST: &str = "tokens";

/// The tokens that were made.
#[derive(Default)]
pub(crate) struct Tokens {
    all: Mutex<All>,
    /// `None` if the branches end with the daemon.
    list: Option<SessionList>,
}

#[derive(Default)]
struct All {
    branches: HashMap<Token, BranchId>,
    tokens: HashMap<BranchId, Token>,
}

impl Tokens {
    /// Returns the tokens of a store's branches.
    pub(crate) fn recover(core: &FsCore, store: Option<&Path>) -> Self {
        let Some(store) = store else {
            return Self::default();
        };
        let list = SessionList::new(store, LIST);
        let mut all = All::default();
        for line in list.read().lines() {
            let Some((token, branch)) = read_line(line) else {
                tracing::warn!("a line of the list of tokens makes no sense");
                continue;
            };
            // A daemon may have been killed between deleting a branch and its token.
            if core.branch(branch).is_ok() {
                all.insert(token, branch);
            }
        }
        Self {
            all: Mutex::new(all),
            list: Some(list),
        }
    }

    /// Returns the token that binds sessions to a branch, which is made if there is none. The next daemon
    /// knows it when this returns.
    pub(crate) fn make(&self, branch: BranchId) -> io::Result<Token> {
        let mut all = self.all.lock();
        if let Some(token) = all.tokens.get(&branch) {
            return Ok(*token);
        }
        let mut token = Token([0; 16]);
        // The kernel's random numbers, on every system.
        File::open("/dev/urandom")?.read_exact(&mut token.0)?;
        all.insert(token, branch);
        self.write(&all);
        Ok(token)
    }

    /// Returns the branch that a token binds to.
    pub(crate) fn branch(&self, token: &Token) -> Option<BranchId> {
        self.all.lock().branches.get(token).copied()
    }

    /// Forgets the token of a branch that is gone.
    pub(crate) fn forget(&self, branch: BranchId) {
        let mut all = self.all.lock();
        if let Some(token) = all.tokens.remove(&branch) {
            all.branches.remove(&token);
            self.write(&all);
        }
    }

    fn write(&self, all: &All) {
        if let Some(list) = &self.list {
            let lines = all.tokens.iter();
            let lines = lines.map(|(branch, token)| format!("{token} {}\n", branch.0));
            list.write(&lines.collect::<String>());
        }
    }
}

impl All {
    fn insert(&mut self, token: Token, branch: BranchId) {
        self.branches.insert(token, branch);
        self.tokens.insert(branch, token);
    }
}

fn read_line(line: &str) -> Option<(Token, BranchId)> {
    let (token, branch) = line.split_once(' ')?;
    Some((Token::from_hex(token)?, BranchId(branch.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use agentfs_core::{Caller, FsConfig};

    use super::*;

    #[test]
    fn the_next_daemon_knows_the_tokens_of_the_branches_that_are_there() {
        let store = tempfile::tempdir().unwrap();
        let core = FsCore::new(FsConfig::default()).unwrap();
        let make = |name| {
            let root = Caller::root();
            core.branch_create_from_current(&root, FsCore::MAIN, name)
                .unwrap()
        };
        let (one, two) = (make("one"), make("two"));
        let tokens = Tokens::recover(&core, Some(store.path()));
        let [first, second] = [one, two].map(|branch| tokens.make(branch).unwrap());
        assert_ne!(first, second);
        assert_eq!(tokens.make(one).unwrap(), first, "a branch has one token");

        let next = Tokens::recover(&core, Some(store.path()));
        assert_eq!(next.branch(&first), Some(one));
        assert_eq!(next.branch(&second), Some(two));
        next.forget(one);
        core.branch_delete(two).unwrap();
        fs::write(
            store.path().join(LIST),
            format!(
                "nonsense\n{}",
                fs::read_to_string(store.path().join(LIST)).unwrap()
            ),
        )
        .unwrap();
        let last = Tokens::recover(&core, Some(store.path()));
        assert_eq!([first, second].map(|it| last.branch(&it)), [None, None]);
        assert_ne!(last.make(one).unwrap(), first);
    }

    #[test]
    fn without_a_store_tokens_end_with_the_daemon() {
        let core = FsCore::new(FsConfig::default()).unwrap();
        let tokens = Tokens::recover(&core, None);
        let token = tokens.make(FsCore::MAIN).unwrap();
        assert_eq!(tokens.branch(&token), Some(FsCore::MAIN));
        assert_eq!(Tokens::recover(&core, None).branch(&token), None);
    }
}
