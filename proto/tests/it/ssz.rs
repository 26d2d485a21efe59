//! Tests every form of the encoding, and compares it with the maintained implementation.

use agentfs_proto::bytes::Bytes;
use agentfs_proto::message::{
    Attr, ByInode, ByPath, Entry, FsEntries, QueueKind, QueueOpen, Target, WatchBatch, WatchItem,
    WatchRegisterInotify, WatchUnregister,
};
use agentfs_proto::ssz::{Ssz, SszError};
use proptest::prelude::*;

/// The same types, as the other implementation sees them.
mod theirs {
    use ssz_derive::{Decode, Encode};

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct QueueOpen {
        pub(crate) kind: u8,
        pub(crate) capacity: u32,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct ByPath {
        pub(crate) path: Vec<u8>,
        pub(crate) follow: bool,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct ByInode {
        pub(crate) st_dev: u64,
        pub(crate) st_ino: u64,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    #[ssz(enum_behaviour = "union")]
    pub(crate) enum Target {
        Path(ByPath),
        Inode(ByInode),
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct Inotify {
        pub(crate) queue: u32,
        pub(crate) wd: u32,
        pub(crate) mask: u32,
        pub(crate) target: Target,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct Unregister {
        pub(crate) queue: u32,
        pub(crate) watch: u64,
    }

    /// The first variant is never made: it keeps the numbers of the other variants equal on both
    /// sides.
    #[derive(Encode, Decode, Debug, PartialEq)]
    #[ssz(enum_behaviour = "union")]
    pub(crate) enum Item {
        Kqueue(Unregister),
        Inotify(Inotify),
        Unregister(Unregister),
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct Batch {
        pub(crate) items: Vec<Item>,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct Attr {
        pub(crate) ino: u64,
        pub(crate) mode: u32,
        pub(crate) nlink: u32,
        pub(crate) uid: u32,
        pub(crate) gid: u32,
        pub(crate) size: u64,
        pub(crate) rdev: u64,
        pub(crate) atime_ns: u64,
        pub(crate) mtime_ns: u64,
        pub(crate) ctime_ns: u64,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct Entry {
        pub(crate) name: Vec<u8>,
        pub(crate) cookie: u64,
        pub(crate) attr: Attr,
    }

    #[derive(Encode, Decode, Debug, PartialEq)]
    pub(crate) struct Entries {
        pub(crate) entries: Vec<Entry>,
        pub(crate) more: bool,
    }
}

fn encode<T: Ssz>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.ssz_append(&mut bytes);
    assert_eq!(bytes.len(), value.ssz_len());
    bytes
}

/// Asserts that ours writes what theirs writes, and reads it back.
fn same<T: Ssz + PartialEq + std::fmt::Debug>(ours: &T, theirs: &impl ::ssz::Encode) {
    let bytes = encode(ours);
    assert_eq!(bytes, theirs.as_ssz_bytes());
    assert_eq!(T::from_ssz(&bytes).as_ref(), Ok(ours));
}

fn target() -> impl Strategy<Value = (Target, theirs::Target)> {
    let path = (prop::collection::vec(any::<u8>(), 0..20), any::<bool>()).prop_map(|it| {
        let (path, follow) = it;
        let ours = ByPath {
            path: Bytes(path.clone()),
            follow,
        };
        (
            Target::Path(ours),
            theirs::Target::Path(theirs::ByPath { path, follow }),
        )
    });
    let inode = any::<(u64, u64)>().prop_map(|(st_dev, st_ino)| {
        let ours = ByInode { st_dev, st_ino };
        (
            Target::Inode(ours),
            theirs::Target::Inode(theirs::ByInode { st_dev, st_ino }),
        )
    });
    prop_oneof![path, inode]
}

fn item() -> impl Strategy<Value = (WatchItem, theirs::Item)> {
    let inotify = (any::<(u32, u32, u32)>(), target()).prop_map(|(numbers, (ours, their))| {
        let (queue, wd, mask) = numbers;
        let item = WatchRegisterInotify {
            queue,
            wd,
            mask,
            target: ours,
        };
        (
            item.into(),
            theirs::Item::Inotify(theirs::Inotify {
                queue,
                wd,
                mask,
                target: their,
            }),
        )
    });
    let unregister = any::<(u32, u64)>().prop_map(|(queue, watch)| {
        let their = theirs::Item::Unregister(theirs::Unregister { queue, watch });
        (WatchUnregister { queue, watch }.into(), their)
    });
    prop_oneof![inotify, unregister]
}

proptest! {
    #[test]
    fn scalars_are_as_theirs(
        a in any::<u8>(), b in any::<u16>(), c in any::<u32>(), d in any::<u64>(), e in any::<bool>(),
        f in any::<[u8; 16]>(), g in prop::collection::vec(any::<u64>(), 0..9),
        h in any::<Option<u32>>(), i in prop::collection::vec(".{0,5}", 0..6),
    ) {
        same(&a, &a);
        same(&b, &b);
        same(&c, &c);
        same(&d, &d);
        same(&e, &e);
        same(&f, &f);
        same(&g, &g);
        same(&h, &h);
        let texts: Vec<Vec<u8>> = i.iter().map(|text| text.as_bytes().to_vec()).collect();
        same(&i, &texts);
    }

    #[test]
    fn fixed_containers_are_as_theirs(capacity in any::<u32>()) {
        same(
            &QueueOpen { kind: QueueKind::Inotify, capacity },
            &theirs::QueueOpen { kind: 2, capacity },
        );
    }

    #[test]
    fn lists_of_unions_are_as_theirs(items in prop::collection::vec(item(), 0..12)) {
        let (ours, theirs): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        same(&WatchBatch { items: ours }, &theirs::Batch { items: theirs });
    }

    #[test]
    fn variable_fields_between_fixed_ones_are_as_theirs(
        names in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), any::<u64>()), 0..9),
        more in any::<bool>(),
    ) {
        let attr = |time: u64| Attr {
            ino: 1, mode: 2, nlink: 3, uid: 4, gid: 5, size: 6, rdev: 7,
            atime_ns: time.cast_signed(), mtime_ns: -1, ctime_ns: 10,
        };
        let their_attr = |time: u64| theirs::Attr {
            ino: 1, mode: 2, nlink: 3, uid: 4, gid: 5, size: 6, rdev: 7,
            atime_ns: time, mtime_ns: u64::MAX, ctime_ns: 10,
        };
        let ours = names.iter().map(|(name, cookie)| {
            Entry { name: Bytes(name.clone()), cookie: *cookie, attr: attr(*cookie) }
        }).collect();
        let theirs = names.iter().map(|(name, cookie)| {
            theirs::Entry { name: name.clone(), cookie: *cookie, attr: their_attr(*cookie) }
        }).collect();
        same(&FsEntries { entries: ours, more }, &theirs::Entries { entries: theirs, more });
    }

    /// Ours refuses what theirs refuses, and writes back byte for byte what it accepts.
    #[test]
    fn mutated_bytes_are_judged_as_by_theirs(
        items in prop::collection::vec(item(), 0..5),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        do_cut in any::<bool>(),
    ) {
        let mut bytes =
            encode(&WatchBatch { items: items.into_iter().map(|(ours, _)| ours).collect() });
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if do_cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        if let Ok(value) = WatchBatch::from_ssz(&bytes) {
            prop_assert_eq!(encode(&value), bytes.clone());
            let has_kqueue = value.items.iter().any(|item| matches!(item, WatchItem::Kqueue(_)));
            let theirs = <theirs::Batch as ::ssz::Decode>::from_ssz_bytes(&bytes);
            prop_assert!(has_kqueue || theirs.is_ok(), "{:?}", theirs);
        }
    }
}

#[test]
fn every_kind_of_damage_has_its_error() {
    assert_eq!(
        u32::from_ssz(&[0; 3]),
        Err(SszError::Length {
            expected: 4,
            found: 3
        })
    );
    assert_eq!(bool::from_ssz(&[2]), Err(SszError::Bool(2)));
    assert_eq!(String::from_ssz(&[0xFF]), Err(SszError::Utf8));
    assert_eq!(QueueKind::from_ssz(&[5]), Err(SszError::Selector(5)));
    assert_eq!(Target::from_ssz(&[]), Err(SszError::TooShort));
    assert_eq!(Target::from_ssz(&[9]), Err(SszError::Selector(9)));
    assert_eq!(ByPath::from_ssz(&[5, 0, 0, 0]), Err(SszError::TooShort));
    assert_eq!(
        ByPath::from_ssz(&[6, 0, 0, 0, 1, 0]),
        Err(SszError::Offset(6))
    );
    assert_eq!(
        Vec::<String>::from_ssz(&[8, 0, 0, 0]),
        Err(SszError::Offset(8))
    );
    assert_eq!(
        Vec::<String>::from_ssz(&[8, 0, 0, 0, 7, 0, 0, 0]),
        Err(SszError::Offset(7))
    );
    assert_eq!(
        Option::<u8>::from_ssz(&[0, 1]),
        Err(SszError::Length {
            expected: 0,
            found: 1
        })
    );
}
