//! Names: what a directory leads to, and how an object is reached.

use std::sync::Arc;

use super::event::{Name, ObjectKind};
use super::id::NodeId;

/// An entry found in a directory, in the branch or below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) node: NodeId,
    pub(crate) kind: ObjectKind,
    /// The stored spelling.
    pub(crate) name: Name,
}

/// The names of an object, by which it is found when it was reached by number. Nearly every object
/// has one.
///
/// For an object of the lower layer with several hard links, these are the names that were seen.
#[derive(Clone, Debug, Default)]
pub(crate) enum Names {
    #[default]
    None,
    One(NodeId, Name),
    Many(Arc<Vec<(NodeId, Name)>>),
}

impl Names {
    pub(crate) fn first(&self) -> Option<(NodeId, &Name)> {
        match self {
            Self::None => None,
            Self::One(parent, name) => Some((*parent, name)),
            Self::Many(all) => all.first().map(|(parent, name)| (*parent, name)),
        }
    }

    pub(crate) fn all(&self) -> Vec<(NodeId, Name)> {
        self.iter()
            .map(|(parent, name)| (parent, name.clone()))
            .collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Name)> {
        let (one, many) = match self {
            Self::None => (None, [].as_slice()),
            Self::One(parent, name) => (Some((*parent, name)), [].as_slice()),
            Self::Many(all) => (None, all.as_slice()),
        };
        one.into_iter()
            .chain(many.iter().map(|(parent, name)| (*parent, name)))
    }

    pub(crate) fn contains(&self, parent: NodeId, name: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::One(own, its) => *own == parent && **its == *name,
            Self::Many(all) => all
                .iter()
                .any(|(own, its)| *own == parent && **its == *name),
        }
    }

    pub(crate) fn add(&mut self, parent: NodeId, name: Name) {
        if self.contains(parent, &name) {
            return;
        }
        match self {
            Self::None => *self = Self::One(parent, name),
            Self::One(own, its) => {
                *self = Self::Many(Arc::new(vec![(*own, its.clone()), (parent, name)]));
            }
            Self::Many(all) => Arc::make_mut(all).push((parent, name)),
        }
    }

    pub(crate) fn remove(&mut self, parent: NodeId, name: &[u8]) {
        match self {
            Self::None => {}
            Self::One(own, its) => {
                if *own == parent && **its == *name {
                    *self = Self::None;
                }
            }
            Self::Many(all) => {
                let all = Arc::make_mut(all);
                all.retain(|(own, its)| !(*own == parent && **its == *name));
                if let [(parent, name)] = all.as_slice() {
                    *self = Self::One(*parent, name.clone());
                }
            }
        }
    }
}
