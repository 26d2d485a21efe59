//! The entries of a directory.
//!
//! Entries are keyed by a hash of their name, which is also their readdir cookie, as in ext4's
//! htree. So the place of an entry in the listing does not depend on what is added or removed
//! around it. The hash is the same on every run.

use std::hash::Hasher as _;

use crate::model::config::{CaseSensitivity, fold};
use crate::model::event::{Name, ObjectKind};
use crate::model::id::NodeId;
use crate::store::trie::Trie;

/// What one name leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    To(NodeId, ObjectKind),
    /// The lower directory has this name and the branch does not.
    Whiteout,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) link: Link,
}

impl Entry {
    pub(crate) fn leads_to(&self, node: NodeId) -> bool {
        matches!(self.link, Link::To(own, _) if own == node)
    }
}

/// The part of a directory that the branch holds itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dir {
    entries: Trie<Entry>,
    /// Entries that are no whiteouts.
    visible: u32,
    /// Whether names that are not here are looked up in the lower directory of the same node. Not
    /// set in a directory made by the branch, which is what other overlays call opaque.
    pub(crate) merges_lower: bool,
}

/// Cookies below this are `.` and `..`.
pub(crate) const FIRST_KEY: u64 = SLOTS;
/// Names with one hash that a directory can hold.
pub(crate) const SLOTS: u64 = 8;
/// What tmpfs counts for an entry (`mm/shmem.c: BOGO_DIRENT_SIZE`).
const ENTRY_SIZE: u64 = 20;

/// Returns the first key for entries of that name. It is positive as `off_t`, and its lowest three
/// bits are free for names with the same hash.
pub(crate) fn key_of(name: &[u8], case: CaseSensitivity) -> u64 {
    #[expect(deprecated, reason = "a hash that stays the same from run to run")]
    let mut hasher = std::hash::SipHasher::new();
    match case {
        CaseSensitivity::Sensitive => hasher.write(name),
        CaseSensitivity::InsensitivePreserving => hasher.write(&fold(name)),
    }
    (hasher.finish() >> 1 & !(SLOTS - 1)).max(FIRST_KEY)
}

impl Dir {
    pub(crate) fn merging() -> Self {
        Self {
            merges_lower: true,
            ..Self::default()
        }
    }

    pub(crate) fn size(&self) -> u64 {
        // `.` and `..` count as well.
        (u64::from(self.visible) + 2) * ENTRY_SIZE
    }

    /// Returns how many entries of the branch itself are no whiteouts.
    pub(crate) fn visible(&self) -> u32 {
        self.visible
    }

    pub(crate) fn entries(&self) -> &Trie<Entry> {
        &self.entries
    }

    /// Returns the entry of that name, and its key. The slots of one hash are filled without gaps.
    pub(crate) fn find(&self, name: &[u8], case: CaseSensitivity) -> Option<(u64, &Entry)> {
        let key = key_of(name, case);
        for slot in key..key + SLOTS {
            let entry = self.entries.get(slot)?;
            if case.is_same(&entry.name, name) {
                return Some((slot, entry));
            }
        }
        None
    }

    /// Returns whether an entry of that name can be put in.
    pub(crate) fn has_room(&self, name: &[u8], case: CaseSensitivity) -> bool {
        let key = key_of(name, case);
        self.find(name, case).is_some() || self.entries.get(key + SLOTS - 1).is_none()
    }

    /// Puts an entry in, in place of the one that has the name. There must be
    /// [room](Self::has_room).
    pub(crate) fn set(&mut self, entry: Entry, case: CaseSensitivity) {
        let key = key_of(&entry.name, case);
        let slot = (key..key + SLOTS - 1)
            .find(|slot| {
                self.entries
                    .get(*slot)
                    .is_none_or(|old| case.is_same(&old.name, &entry.name))
            })
            .unwrap_or(key + SLOTS - 1);
        self.visible += u32::from(entry.link != Link::Whiteout);
        if let Some(old) = self.entries.insert(slot, entry) {
            self.visible -= u32::from(old.link != Link::Whiteout);
        }
    }

    /// Puts entries in place of all whose names have one hash; `key` is the first key of those.
    pub(crate) fn replace_group(&mut self, key: u64, entries: Vec<Entry>) {
        let keys = key..key.saturating_add(SLOTS);
        for key in keys.clone() {
            let old = self.entries.remove(key);
            self.visible -= u32::from(old.is_some_and(|entry| entry.link != Link::Whiteout));
        }
        for (key, entry) in keys.zip(entries) {
            self.visible += u32::from(entry.link != Link::Whiteout);
            self.entries.insert(key, entry);
        }
    }

    /// Takes an entry out. If several names have the same hash, the last one moves into the gap.
    pub(crate) fn remove(&mut self, name: &[u8], case: CaseSensitivity) {
        let Some((slot, _)) = self.find(name, case) else {
            return;
        };
        let last = (slot..slot | (SLOTS - 1))
            .take_while(|slot| self.entries.get(slot + 1).is_some())
            .last()
            .map_or(slot, |before| before + 1);
        let Some(tail) = self.entries.remove(last) else {
            return;
        };
        let gone = if last == slot {
            Some(tail)
        } else {
            self.entries.insert(slot, tail)
        };
        self.visible -= u32::from(gone.is_some_and(|entry| entry.link != Link::Whiteout));
    }
}
