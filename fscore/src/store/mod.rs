//! What a branch holds: the persistent tree of its objects, their content, and its open handles.

pub(crate) mod content;
pub(crate) mod dir;
pub(crate) mod dir_paths;
pub(crate) mod extents;
pub(crate) mod format;
pub(crate) mod handles;
pub(crate) mod inode;
pub(crate) mod tree;
pub(crate) mod visibility;

pub(crate) use crate::model::trie;
