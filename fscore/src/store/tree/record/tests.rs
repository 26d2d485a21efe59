//! Trees that are written change by change, and read again.

use std::sync::Arc;

use agentfs_testkit::random::Random;

use super::{Decoder, Encoder, KnownExtents};
use crate::model::attr::{Times, Xattrs};
use crate::model::config::FsConfig;
use crate::model::event::{Name, ObjectKind};
use crate::model::id::{NodeId, NodeNumbers};
use crate::model::names::Names;
use crate::store::content::File;
use crate::store::dir::Dir;
use crate::store::extents::Extents;
use crate::store::inode::{Body, Inode};
use crate::store::tree::{Shared, Tree};

fn shared(extents: Arc<Extents>) -> Arc<Shared> {
    let numbers = Arc::<NodeNumbers>::default();
    Arc::new(Shared::new(
        FsConfig::default(),
        None,
        numbers,
        extents,
        true,
    ))
}

fn inode(random: &mut Random) -> Inode {
    let body = match random.range(0..5) {
        0 => Body::Dir(Box::<Dir>::default()),
        1 => Body::Symlink(Arc::from(*b"elsewhere")),
        2 => Body::CharDevice(random.next_u64()),
        _ => Body::File(File::default()),
    };
    Inode {
        mode: 0o644,
        uid: 1000,
        gid: 0,
        nlink: 1,
        times: Times::at(random.next_u64().cast_signed() >> 8),
        names: Names::None,
        xattrs: None,
        body,
    }
}

/// Returns one of the objects that `fits`.
fn some_node(tree: &Tree, random: &mut Random, fits: impl Fn(&Inode) -> bool) -> Option<NodeId> {
    let all: Vec<u64> = tree
        .inodes()
        .iter()
        .filter(|(_, it)| fits(it))
        .map(|(key, _)| key)
        .collect();
    let index = random.range(0..all.len().max(1) as u64);
    all.get(usize::try_from(index).expect("few"))
        .copied()
        .map(NodeId)
}

/// Makes one change of any kind.
fn change(tree: &mut Tree, random: &mut Random) -> Option<()> {
    let name: Name = Arc::from(format!("name {}", random.range(0..20)).as_bytes());
    let dir = some_node(tree, random, Inode::is_dir)?;
    let any = some_node(tree, random, |_| true)?;
    let file = some_node(tree, random, |it| it.as_file().is_some());
    match random.range(0..12) {
        0..3 => {
            let node = tree.shared.new_node();
            let inode = inode(random);
            let kind = inode.kind();
            tree.add(node, inode);
            tree.set_entry(dir, &name, node, kind).ok()?;
            tree.inode_mut(node).ok()?.names.add(dir, name);
        }
        3 => tree
            .remove_entry(dir, &name, random.range(0..3) == 0)
            .ok()?,
        4 if any != NodeId::ROOT => tree.forget(any),
        5 => {
            let inode = tree.inode_mut(any).ok()?;
            inode.mode ^= 0o111;
            inode.touch(7);
            let value = Arc::from(name.as_ref());
            inode.xattrs = Some(Arc::new(Xattrs::from([(Box::from(*b"user.x"), value)])));
        }
        6 => tree.set_orphan(any, random.range(0..2) == 0),
        7 => tree.clear_orphan(any),
        8 => {
            let of = tree.inode(any).ok()?.into_owned();
            tree.see(any, &of);
        }
        9 => tree.forget_seen(any),
        _ => {
            let (at, len) = (random.range(0..60_000), random.range(1..30_000));
            let what = random.range(0..6);
            let data = vec![7; usize::try_from(len).expect("small")];
            let changed = tree.change_file(file?, |file, extents| match what {
                0 => {
                    file.resize(at);
                    Ok(())
                }
                1 => file.punch(extents, at, at + len),
                2 => {
                    file.allocate(at, at + len);
                    Ok(())
                }
                3 => file.write(extents, file.size(), &data),
                _ => file.write(extents, at, &data),
            });
            changed.expect("there is memory");
        }
    }
    Some(())
}

fn whole(tree: &Tree) -> Vec<u8> {
    let mut encoder = Encoder::default();
    tree.write_difference(&Tree::unfilled(tree.shared.clone()), &mut encoder);
    encoder.bytes().to_vec()
}

/// A tree that is read from the changes of another one is the same at each step, so are its clones,
/// and a clone is written as what it does not share with the tree before it.
#[test]
fn a_tree_is_read_again_from_its_changes_and_from_differences() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut tree = Tree::new(shared(Extents::in_memory()), 1).expect("a root");
        let unknown = || Arc::new(crate::disk::MemoryFile::default());
        let extents = Extents::recovering(unknown());
        let mut known = KnownExtents::new(extents.clone());
        let mut copy = Tree::unfilled(shared(extents));
        let mut encoder = Encoder::default();
        let mut replay = |copy: &mut Tree, encoder: &Encoder, what: &str| {
            let read = copy.replay(&mut Decoder::new(encoder.bytes()), &mut known);
            assert_eq!(read, Ok(()), "{what}");
        };
        tree.write_difference(&copy, &mut encoder);
        replay(&mut copy, &encoder, "the root");
        let mut clones = Vec::new();
        for step in 0..150 {
            let what = format!("seed {seed}, step {step}");
            change(&mut tree, &mut random);
            if random.range(0..3) == 0 {
                continue;
            }
            encoder.clear();
            tree.write_changes(&mut encoder);
            replay(&mut copy, &encoder, &what);
            assert_eq!(whole(&copy), whole(&tree), "{what}");
            assert_eq!(copy.pages(), tree.pages(), "{what}");
            if random.range(0..20) == 0 {
                clones.push((tree.clone(), copy.clone()));
            }
        }
        for (tree, copy) in &clones {
            assert_eq!(whole(copy), whole(tree), "seed {seed}");
        }
        for pair in clones.windows(2) {
            encoder.clear();
            pair[1].0.write_difference(&pair[0].0, &mut encoder);
            let mut copy = pair[0].1.clone();
            replay(&mut copy, &encoder, "a difference");
            assert_eq!(whole(&copy), whole(&pair[1].0), "seed {seed}");
        }
    }
}

#[test]
fn a_difference_costs_what_is_not_shared() {
    let mut tree = Tree::new(shared(Extents::in_memory()), 1).expect("a root");
    let mut random = Random::new(1);
    for number in 0..5000 {
        let name: Name = Arc::from(format!("{number}").as_bytes());
        let node = tree.shared.new_node();
        tree.add(node, inode(&mut random));
        tree.set_entry(NodeId::ROOT, &name, node, ObjectKind::File)
            .expect("a directory");
    }
    let old = tree.clone();
    let mut encoder = Encoder::default();
    tree.write_difference(&old, &mut encoder);
    assert_eq!(encoder.bytes(), b"");
    tree.inode_mut(NodeId::ROOT).expect("the root").mode = 0;
    tree.write_difference(&old, &mut encoder);
    assert!(encoder.bytes().len() < 100, "{}", encoder.bytes().len());
}

#[test]
fn bytes_that_are_no_record_are_refused_and_do_no_harm() {
    let mut tree = Tree::new(shared(Extents::in_memory()), 1).expect("a root");
    let mut random = Random::new(3);
    for _ in 0..300 {
        change(&mut tree, &mut random);
    }
    let record = whole(&tree);
    for _ in 0..20_000 {
        let extents = Extents::recovering(Arc::new(crate::disk::MemoryFile::default()));
        let mut known = KnownExtents::new(extents.clone());
        let mut copy = Tree::unfilled(shared(extents));
        let start = usize::try_from(random.range(0..record.len() as u64)).expect("small");
        let mut damaged = record[..record.len().min(start + 400)].to_vec();
        for _ in 0..random.range(1..4) {
            let at = usize::try_from(random.range(0..damaged.len() as u64)).expect("small");
            damaged[at] = random.next_u64().to_le_bytes()[0];
        }
        // Whatever it says, it ends, and what it made can be written.
        if copy.replay(&mut Decoder::new(&damaged), &mut known).is_ok() {
            whole(&copy);
        }
    }
}
