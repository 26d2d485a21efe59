//! A persistent ordered map from `u64`: the structure of inode tables, directories and file
//! content.
//!
//! The map is a 32-way radix tree over the key's digits, most significant first, which leaves out
//! levels that would hold one child (Okasaki and Gill, "Fast Mergeable Integer Maps", with wider
//! nodes). Cloning increments one reference count, and so does making a snapshot. A change copies
//! only those nodes on its way from the root that another clone still holds, and edits the others
//! in place. The shape depends on the keys alone and not on their history, so two maps with a
//! common ancestor are compared by skipping every subtree that they share: [`diff`] costs the size
//! of the difference.

use std::sync::Arc;

/// Bits in one digit of a key.
const DIGIT: u32 = 5;

#[derive(Clone, Debug)]
enum Slot<V> {
    Leaf(u64, V),
    Branch(Arc<Node<V>>),
}

#[derive(Clone, Debug)]
struct Node<V> {
    /// The bits above this node's digit, which all keys below have in common.
    prefix: u64,
    /// Position of this node's digit, a multiple of [`DIGIT`].
    shift: u32,
    /// Which of the 32 children exist.
    present: u32,
    /// The children, in order.
    slots: Vec<Slot<V>>,
}

/// The map.
#[derive(Clone, Debug)]
pub(crate) struct Trie<V> {
    root: Option<Slot<V>>,
    len: usize,
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

/// Returns the bits above the digit at `shift`.
fn above(key: u64, shift: u32) -> u64 {
    key.checked_shr(shift + DIGIT).unwrap_or(0)
}

impl<V> Node<V> {
    fn covers(&self, key: u64) -> bool {
        above(key, self.shift) == self.prefix
    }

    /// Returns the bit of the child to which `key` belongs.
    fn bit(&self, key: u64) -> u32 {
        1 << ((key >> self.shift) & 31)
    }

    /// Returns where the child of that bit is, or would be.
    fn index(&self, bit: u32) -> usize {
        (self.present & (bit - 1)).count_ones() as usize
    }

    fn child(&self, bit: u32) -> Option<&Slot<V>> {
        (self.present & bit != 0).then(|| &self.slots[self.index(bit)])
    }

    /// Returns the smallest key that could be below.
    fn first_key(&self) -> u64 {
        self.prefix.checked_shl(self.shift + DIGIT).unwrap_or(0)
    }
}

impl<V> Slot<V> {
    fn first_key(&self) -> u64 {
        match self {
            Self::Leaf(key, _) => *key,
            Self::Branch(node) => node.first_key(),
        }
    }

    /// Returns whether `key` may be at or below this slot.
    fn covers(&self, key: u64) -> bool {
        match self {
            Self::Leaf(own, _) => *own == key,
            Self::Branch(node) => node.covers(key),
        }
    }
}

impl<V: Clone> Trie<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let mut slot = self.root.as_ref()?;
        loop {
            match slot {
                Slot::Leaf(own, value) => return (*own == key).then_some(value),
                Slot::Branch(node) => {
                    if !node.covers(key) {
                        return None;
                    }
                    slot = node.child(node.bit(key))?;
                }
            }
        }
    }

    /// Returns the value to be changed. The nodes on the way to it become this map's own.
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let mut slot = self.root.as_mut()?;
        loop {
            match slot {
                Slot::Leaf(own, value) => return (*own == key).then_some(value),
                Slot::Branch(node) => {
                    let bit = node.bit(key);
                    if !node.covers(key) || node.present & bit == 0 {
                        return None;
                    }
                    let node = Arc::make_mut(node);
                    let index = node.index(bit);
                    slot = &mut node.slots[index];
                }
            }
        }
    }

    pub(crate) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        let old = match &mut self.root {
            None => {
                self.root = Some(Slot::Leaf(key, value));
                None
            }
            Some(root) => insert(root, key, value),
        };
        self.len += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<V> {
        self.get(key)?;
        let root = self.root.as_mut()?;
        let old = if matches!(root, Slot::Leaf(..)) {
            match self.root.take() {
                Some(Slot::Leaf(_, value)) => Some(value),
                _ => None,
            }
        } else {
            remove(root, key)
        };
        self.len -= usize::from(old.is_some());
        old
    }

    pub(crate) fn iter(&self) -> Iter<'_, V> {
        self.range_from(0)
    }

    /// Returns the entries with keys not below `from`, in order.
    pub(crate) fn range_from(&self, from: u64) -> Iter<'_, V> {
        let mut iter = Iter { stack: Vec::new() };
        let mut next = self.root.as_ref();
        while let Some(slot) = next.take() {
            match slot {
                Slot::Branch(node) if node.covers(from) => {
                    let bit = node.bit(from);
                    let index = node.index(bit);
                    let exact = node.present & bit != 0;
                    iter.stack
                        .push(node.slots[index + usize::from(exact)..].iter());
                    next = exact.then(|| &node.slots[index]);
                }
                whole if whole.first_key() >= from => {
                    iter.stack.push(std::slice::from_ref(whole).iter());
                }
                Slot::Leaf(..) | Slot::Branch(_) => {}
            }
        }
        iter
    }
}

fn insert<V: Clone>(slot: &mut Slot<V>, key: u64, value: V) -> Option<V> {
    if !slot.covers(key) {
        split(slot, key, value);
        return None;
    }
    match slot {
        Slot::Leaf(_, old) => Some(std::mem::replace(old, value)),
        Slot::Branch(node) => {
            let bit = node.bit(key);
            let node = Arc::make_mut(node);
            let index = node.index(bit);
            if node.present & bit != 0 {
                return insert(&mut node.slots[index], key, value);
            }
            if node.slots.len() == node.slots.capacity() {
                // The room grows by half and is not doubled: most nodes of a map of hashes stay
                // small.
                node.slots.reserve_exact(node.slots.len() / 2 + 1);
            }
            node.slots.insert(index, Slot::Leaf(key, value));
            node.present |= bit;
            None
        }
    }
}

/// Puts a node above `slot`, at the first digit in which `key` differs from what is there.
fn split<V>(slot: &mut Slot<V>, key: u64, value: V) {
    let other = slot.first_key();
    let highest = u64::BITS - 1 - (key ^ other).leading_zeros();
    let shift = highest / DIGIT * DIGIT;
    let mut node = Node {
        prefix: above(key, shift),
        shift,
        present: 0,
        slots: Vec::with_capacity(2),
    };
    node.present = node.bit(key) | node.bit(other);
    node.slots.push(Slot::Leaf(key, value));
    let old = std::mem::replace(slot, Slot::Branch(Arc::new(node)));
    if let Slot::Branch(node) = slot
        && let Some(node) = Arc::get_mut(node)
    {
        node.slots.insert(usize::from(key < other), old);
    }
}

/// Removes a key that is there from below a branch.
fn remove<V: Clone>(slot: &mut Slot<V>, key: u64) -> Option<V> {
    let Slot::Branch(node) = slot else {
        return None;
    };
    let bit = node.bit(key);
    let node = Arc::make_mut(node);
    let index = node.index(bit);
    if matches!(node.slots[index], Slot::Branch(_)) {
        return remove(&mut node.slots[index], key);
    }
    let removed = node.slots.remove(index);
    node.present &= !bit;
    if node.slots.len() == 1
        && let Some(last) = node.slots.pop()
    {
        *slot = last;
    }
    match removed {
        Slot::Leaf(_, value) => Some(value),
        Slot::Branch(_) => None,
    }
}

/// Entries in key order.
#[derive(Debug)]
pub(crate) struct Iter<'a, V> {
    stack: Vec<std::slice::Iter<'a, Slot<V>>>,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (u64, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.stack.last_mut()?.next() {
                None => {
                    self.stack.pop();
                }
                Some(Slot::Leaf(key, value)) => return Some((*key, value)),
                Some(Slot::Branch(node)) => self.stack.push(node.slots.iter()),
            }
        }
    }
}

/// Calls `each` for every key that may differ, in key order, with the values of the two maps.
/// Subtrees that both share are skipped. Where both maps have a value, `each` has to compare them.
pub(crate) fn diff<'a, V>(
    old: &'a Trie<V>,
    new: &'a Trie<V>,
    each: &mut dyn FnMut(u64, Option<&'a V>, Option<&'a V>),
) {
    diff_slots(old.root.as_ref(), new.root.as_ref(), each);
}

fn diff_slots<'a, V>(
    old: Option<&'a Slot<V>>,
    new: Option<&'a Slot<V>>,
    each: &mut dyn FnMut(u64, Option<&'a V>, Option<&'a V>),
) {
    let (old, new) = match (old, new) {
        (None, None) => return,
        (Some(old), None) => return walk(old, &mut |key, value| each(key, Some(value), None)),
        (None, Some(new)) => return walk(new, &mut |key, value| each(key, None, Some(value))),
        (Some(old), Some(new)) => (old, new),
    };
    match (old, new) {
        (Slot::Leaf(a, x), Slot::Leaf(b, y)) if a == b => each(*a, Some(x), Some(y)),
        (Slot::Branch(a), Slot::Branch(b)) if Arc::ptr_eq(a, b) => {}
        (Slot::Branch(a), Slot::Branch(b)) if a.shift == b.shift && a.prefix == b.prefix => {
            for bit in bits(a.present | b.present) {
                diff_slots(a.child(bit), b.child(bit), each);
            }
        }
        (Slot::Branch(a), _) if a.covers(new.first_key()) && is_below(new, a) => {
            let with = a.bit(new.first_key());
            for bit in bits(a.present | with) {
                diff_slots(a.child(bit), (bit == with).then_some(new), each);
            }
        }
        (_, Slot::Branch(b)) if b.covers(old.first_key()) && is_below(old, b) => {
            let with = b.bit(old.first_key());
            for bit in bits(b.present | with) {
                diff_slots((bit == with).then_some(old), b.child(bit), each);
            }
        }
        _ if old.first_key() < new.first_key() => {
            diff_slots(Some(old), None, each);
            diff_slots(None, Some(new), each);
        }
        _ => {
            diff_slots(None, Some(new), each);
            diff_slots(Some(old), None, each);
        }
    }
}

fn is_below<V>(slot: &Slot<V>, node: &Node<V>) -> bool {
    match slot {
        Slot::Leaf(..) => true,
        Slot::Branch(own) => own.shift < node.shift,
    }
}

fn bits(mut set: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = set & set.wrapping_neg();
        set ^= bit;
        (bit != 0).then_some(bit)
    })
}

fn walk<'a, V>(slot: &'a Slot<V>, each: &mut dyn FnMut(u64, &'a V)) {
    match slot {
        Slot::Leaf(key, value) => each(*key, value),
        Slot::Branch(node) => node.slots.iter().for_each(|slot| walk(slot, each)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use agentfs_testkit::random::Random;

    /// Dense keys, hashes, and keys that differ in one far bit.
    fn key(random: &mut Random) -> u64 {
        match random.next_u64() % 3 {
            0 => random.next_u64() % 200,
            1 => random.next_u64() % 8 * 0x1111_1111_1111_1111,
            _ => (1 << (random.next_u64() % 64)) | (random.next_u64() % 4),
        }
    }

    #[test]
    fn agrees_with_an_ordered_map_and_old_clones_do_not_change() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut map, mut model) = (Trie::default(), BTreeMap::new());
            let mut frozen = vec![(map.clone(), model.clone())];
            for step in 0..300 {
                let key = key(&mut random);
                match random.next_u64() % 4 {
                    0 => assert_eq!(map.remove(key), model.remove(&key), "seed {seed}"),
                    1 => {
                        if let Some(value) = map.get_mut(key) {
                            *value += 1000;
                        }
                        model.entry(key).and_modify(|value| *value += 1000);
                    }
                    _ => assert_eq!(
                        map.insert(key, step),
                        model.insert(key, step),
                        "seed {seed}"
                    ),
                }
                assert_eq!(map.len(), model.len(), "seed {seed}");
                if step % 50 == 0 {
                    frozen.push((map.clone(), model.clone()));
                }
            }
            frozen.push((map, model));
            for (map, model) in &frozen {
                assert!(
                    map.iter().eq(model.iter().map(|(k, v)| (*k, v))),
                    "seed {seed}"
                );
                let from = key(&mut random);
                let tail = model.range(from..).map(|(k, v)| (*k, v));
                assert!(map.range_from(from).eq(tail), "seed {seed}");
                assert_eq!(map.get(from), model.get(&from), "seed {seed}");
            }
            for window in frozen.windows(2) {
                check_diff(&window[0], &window[1]);
            }
            check_diff(&frozen[0], frozen.last().expect("at least two"));
        }
    }

    type Pair = (Trie<i32>, BTreeMap<u64, i32>);

    fn check_diff(old: &Pair, new: &Pair) {
        let mut seen = Vec::new();
        diff(&old.0, &new.0, &mut |key, a, b| {
            if a != b {
                seen.push((key, a.copied(), b.copied()));
            }
        });
        let keys: std::collections::BTreeSet<_> = old.1.keys().chain(new.1.keys()).collect();
        let expected: Vec<_> = keys
            .into_iter()
            .map(|key| (*key, old.1.get(key).copied(), new.1.get(key).copied()))
            .filter(|(_, a, b)| a != b)
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn comparing_a_clone_with_one_change_visits_few_entries() {
        let mut map = Trie::default();
        for key in 0..100_000 {
            map.insert(key, 0);
        }
        let old = map.clone();
        map.insert(77_777, 1);
        let mut visited = 0;
        diff(&old, &map, &mut |_, _, _| visited += 1);
        assert!(visited <= 32, "{visited}");
    }
}
