//! Names: what a directory leads to, and how an object is reached.

use std::hash::Hasher as _;
use std::sync::Arc;

use super::event::{Name, ObjectKind};
use super::id::NodeId;
use super::trie::Trie;

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
    Many(Arc<Links>),
}

/// Several names. However many they are, adding one, removing one and keeping a copy cost the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links {
    /// The names by their numbers, the oldest first.
    names: Trie<(NodeId, Name)>,
    /// The numbers by the names' hashes.
    numbers: Trie<Vec<u64>>,
    last: u64,
    /// What has changed since the names were last written to the log; `None` when all have to be.
    changed: Option<Vec<NameChange>>,
}

/// A name that an object has got or lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameChange {
    pub(crate) is_added: bool,
    pub(crate) dir: NodeId,
    pub(crate) name: Name,
}

/// From how many names on only those are written to the log that have changed.
const MANY: usize = 16;

fn hash(parent: NodeId, name: &[u8]) -> u64 {
    #[expect(deprecated, reason = "a hash that stays the same from run to run")]
    let mut hasher = std::hash::SipHasher::new();
    hasher.write_u64(parent.0);
    hasher.write(name);
    hasher.finish()
}

impl Links {
    fn find(&self, parent: NodeId, name: &[u8]) -> Option<u64> {
        let numbers = self.numbers.get(hash(parent, name))?;
        let is_it = |number: &&u64| {
            let found = self.names.get(**number);
            found.is_some_and(|(own, its)| *own == parent && **its == *name)
        };
        numbers.iter().find(is_it).copied()
    }

    fn note(&mut self, is_added: bool, dir: NodeId, name: &Name) {
        if let Some(changed) = &mut self.changed {
            let name = name.clone();
            changed.push(NameChange {
                is_added,
                dir,
                name,
            });
            if changed.len() > self.names.len() {
                self.changed = None;
            }
        }
    }

    fn add(&mut self, parent: NodeId, name: Name) {
        self.note(true, parent, &name);
        let hash = hash(parent, &name);
        self.last += 1;
        self.names.insert(self.last, (parent, name));
        match self.numbers.get_mut(hash) {
            Some(numbers) => numbers.push(self.last),
            None => drop(self.numbers.insert(hash, vec![self.last])),
        }
    }

    fn remove(&mut self, parent: NodeId, name: &[u8]) {
        let Some(number) = self.find(parent, name) else {
            return;
        };
        if let Some((parent, name)) = self.names.remove(number) {
            self.note(false, parent, &name);
        }
        let hash = hash(parent, name);
        if let Some(numbers) = self.numbers.get_mut(hash) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.numbers.remove(hash);
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (NodeId, &Name)> {
        self.names.iter().map(|(_, (parent, name))| (*parent, name))
    }
}

impl Names {
    pub(crate) fn first(&self) -> Option<(NodeId, &Name)> {
        self.iter().next()
    }

    pub(crate) fn all(&self) -> Vec<(NodeId, Name)> {
        self.iter()
            .map(|(parent, name)| (parent, name.clone()))
            .collect()
    }

    /// Returns the names, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Name)> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(parent, name) => (Some((*parent, name)), None),
            Self::Many(all) => (None, Some(all.iter())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub(crate) fn contains(&self, parent: NodeId, name: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::One(own, its) => *own == parent && **its == *name,
            Self::Many(all) => all.find(parent, name).is_some(),
        }
    }

    /// Returns whether both are the same names, in whatever order.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.iter().count() == other.iter().count()
            && self.iter().all(|(dir, name)| other.contains(dir, name))
    }

    /// Returns whether only those have to be written to the log that have changed since they were last
    /// written.
    pub(crate) fn are_known(&self) -> bool {
        matches!(self, Self::Many(all) if all.changed.is_some() && all.names.len() >= MANY)
    }

    /// Returns whether [`take_changed`](Self::take_changed) is needed after they were written.
    pub(crate) fn are_unwritten(&self) -> bool {
        matches!(self, Self::Many(all) if all.changed.as_ref().is_none_or(|it| !it.is_empty()))
    }

    /// Returns what has changed, and begins anew.
    pub(crate) fn take_changed(&mut self) -> Vec<NameChange> {
        let Self::Many(all) = self else {
            return Vec::new();
        };
        let changed = &mut Arc::make_mut(all).changed;
        changed.replace(Vec::new()).unwrap_or_default()
    }

    /// Makes a change that was [taken](Self::take_changed) from the same names.
    pub(crate) fn change(&mut self, change: NameChange) {
        match change.is_added {
            true => self.add(change.dir, change.name),
            false => self.remove(change.dir, &change.name),
        }
    }

    pub(crate) fn add(&mut self, parent: NodeId, name: Name) {
        if self.contains(parent, &name) {
            return;
        }
        match self {
            Self::None => *self = Self::One(parent, name),
            Self::One(own, its) => {
                let mut all = Links::default();
                all.add(*own, its.clone());
                all.add(parent, name);
                *self = Self::Many(Arc::new(all));
            }
            Self::Many(all) => Arc::make_mut(all).add(parent, name),
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
                all.remove(parent, name);
                let first = all.iter().next().map(|(dir, name)| (dir, name.clone()));
                if let Some((parent, name)) = first.filter(|_| all.names.len() == 1) {
                    *self = Self::One(parent, name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentfs_testkit::random::Random;

    #[test]
    fn names_agree_with_a_list_and_copies_do_not_change() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let (mut names, mut model) = (Names::None, Vec::new());
            let mut copies = Vec::new();
            for _ in 0..200 {
                let dir = NodeId(random.next_u64() % 3);
                let name: Name = format!("n{}", random.next_u64() % 8).into_bytes().into();
                if random.next_u64().is_multiple_of(2) {
                    names.add(dir, name.clone());
                    if !model.contains(&(dir, name.clone())) {
                        model.push((dir, name.clone()));
                    }
                } else {
                    names.remove(dir, &name);
                    model.retain(|it| *it != (dir, name.clone()));
                }
                assert_eq!(
                    names.contains(dir, &name),
                    model.contains(&(dir, name)),
                    "seed {seed}"
                );
                copies.push((names.clone(), model.clone()));
            }
            for (names, model) in copies {
                assert_eq!(names.all(), model, "seed {seed}");
                let first = names.first().map(|(dir, name)| (dir, name.clone()));
                assert_eq!(first.as_ref(), model.first(), "seed {seed}");
            }
        }
    }
}
