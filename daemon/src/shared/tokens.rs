//! The tokens that bind sessions to branches.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};

use agentfs_core::id::BranchId;
use agentfs_proto::message::Token;
use parking_lot::Mutex;

/// The tokens that were made, each with its branch.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Token, BranchId>>);

impl Tokens {
    /// Makes a token that binds sessions to a branch.
    pub(crate) fn make(&self, branch: BranchId) -> io::Result<Token> {
        let mut token = Token([0; 16]);
        // The kernel's random numbers, on every system.
        File::open("/dev/urandom")?.read_exact(&mut token.0)?;
        self.0.lock().insert(token, branch);
        Ok(token)
    }

    /// Returns the branch that a token binds to.
    pub(crate) fn branch(&self, token: &Token) -> Option<BranchId> {
        self.0.lock().get(token).copied()
    }

    /// Forgets the tokens of a branch that is gone.
    pub(crate) fn forget(&self, branch: BranchId) {
        self.0.lock().retain(|_, of| *of != branch);
    }
}
