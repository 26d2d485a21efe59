//! The list of the operations of a transaction, as it lies in the staging directory.
//!
//! A list that was not written whole counts as none: nothing is renamed before all of it is on the
//! disk.

use super::attributes::AttributeChange;
use super::op::{Expected, Op, Slot};
use crate::lower::stat::Fingerprint;

const MAGIC: &[u8; 8] = b"agfsint1";

/// Returns the bytes of a list.
pub(super) fn encode(ops: &[Op]) -> Vec<u8> {
    let mut writer = Writer(MAGIC.to_vec());
    writer.number(ops.len() as u64);
    for op in ops {
        writer.op(op);
    }
    let sum = crc32fast::hash(&writer.0);
    writer.0.extend_from_slice(&sum.to_le_bytes());
    writer.0
}

/// Returns the list; `None` where it is not whole.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Op>> {
    let (bytes, sum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(bytes) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut reader = Reader(bytes.strip_prefix(MAGIC)?);
    let count = reader.number()?;
    let ops: Option<Vec<Op>> = (0..count).map(|_| reader.op()).collect();
    ops.filter(|_| reader.0.is_empty())
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        for word in fingerprint.to_words() {
            self.number(word);
        }
    }

    fn expected(&mut self, expected: &Expected) {
        self.fingerprint(&expected.fingerprint);
        self.number(u64::from(expected.exact));
    }

    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn attributes(&mut self, change: &AttributeChange) {
        self.optional(change.owner, |it, (uid, gid)| {
            it.number(uid.into());
            it.number(gid.into());
        });
        self.optional(change.mode, |it, mode| it.number(mode.into()));
        self.optional(change.times, |it, (accessed, modified)| {
            it.number(accessed.cast_unsigned());
            it.number(modified.cast_unsigned());
        });
        self.number(change.xattrs.len() as u64);
        for (name, value) in &change.xattrs {
            self.bytes(name);
            self.optional(value.as_ref(), |it, value| it.bytes(value));
        }
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Place { slot, new, path } => {
                self.number(0);
                self.number(slot.0);
                self.fingerprint(new);
                self.bytes(path);
            }
            Op::Replace {
                slot,
                new,
                path,
                old,
            } => {
                self.number(1);
                self.number(slot.0);
                self.fingerprint(new);
                self.bytes(path);
                self.expected(old);
            }
            Op::Remove {
                slot,
                path,
                old,
                mode,
            } => {
                self.number(2);
                self.number(slot.0);
                self.bytes(path);
                self.optional(old.as_ref(), Self::expected);
                self.number((*mode).into());
            }
            Op::Rename { from, to, object } => {
                self.number(3);
                self.bytes(from);
                self.bytes(to);
                self.expected(object);
            }
            Op::Set {
                path,
                object,
                before,
                after,
            } => {
                self.number(4);
                self.bytes(path);
                self.fingerprint(object);
                self.attributes(before);
                self.attributes(after);
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.number()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }

    fn fingerprint(&mut self) -> Option<Fingerprint> {
        let mut words = [0; Fingerprint::WORDS];
        for word in &mut words {
            *word = self.number()?;
        }
        Fingerprint::from_words(words)
    }

    fn expected(&mut self) -> Option<Expected> {
        Some(Expected {
            fingerprint: self.fingerprint()?,
            exact: self.flag()?,
        })
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? {
            Some(Some(read(self)?))
        } else {
            Some(None)
        }
    }

    fn attributes(&mut self) -> Option<AttributeChange> {
        let owner = self.optional(|it| Some((it.small()?, it.small()?)))?;
        let mode = self.optional(Self::small)?;
        let time = |it: &mut Self| it.number().map(u64::cast_signed);
        let times = self.optional(|it| Some((time(it)?, time(it)?)))?;
        let count = self.number()?;
        let xattr = |_| Some((self.bytes()?, self.optional(Self::bytes)?));
        let xattrs = (0..count).map(xattr).collect::<Option<_>>()?;
        Some(AttributeChange {
            owner,
            mode,
            times,
            xattrs,
        })
    }

    fn op(&mut self) -> Option<Op> {
        Some(match self.number()? {
            0 => Op::Place {
                slot: Slot(self.number()?),
                new: self.fingerprint()?,
                path: self.bytes()?,
            },
            1 => Op::Replace {
                slot: Slot(self.number()?),
                new: self.fingerprint()?,
                path: self.bytes()?,
                old: self.expected()?,
            },
            2 => Op::Remove {
                slot: Slot(self.number()?),
                path: self.bytes()?,
                old: self.optional(Self::expected)?,
                mode: self.small()?,
            },
            3 => Op::Rename {
                from: self.bytes()?,
                to: self.bytes()?,
                object: self.expected()?,
            },
            4 => Op::Set {
                path: self.bytes()?,
                object: self.fingerprint()?,
                before: self.attributes()?,
                after: self.attributes()?,
            },
            _ => return None,
        })
    }
}
