//! The variables by which a program started by `agentfs` is known to belong to a branch.

/// The variable that names the branch to `agentfs` commands inside of a run.
pub(crate) const BRANCH_VARIABLE: &str = "AGENTFS_BRANCH";
/// The variable that binds a program to its branch.
pub(crate) const TOKEN_VARIABLE: &str = "AGENTFS_TOKEN";
