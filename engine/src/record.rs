//! A record between its making and its place in the ring or the spill.

use agentfs_proto::record::{AgentFsEvent, HEAD_LEN, encoded_len, write_to};

use crate::spill::{Ordinal, Spill};

/// A record that is still to be written: its fixed part, the two paths behind it, and the length of
/// all of it when it is encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    event: &'a AgentFsEvent,
    path: &'a [u8],
    aux: &'a [u8],
    pub(crate) len: usize,
}

impl<'a> Record<'a> {
    /// Returns `None` when a path is too long for the length field of a record.
    #[inline]
    pub(crate) fn new(event: &'a AgentFsEvent, path: &'a [u8], aux: &'a [u8]) -> Option<Self> {
        let len = encoded_len(path, aux).ok()?;
        Some(Self {
            event,
            path,
            aux,
            len,
        })
    }

    pub(crate) fn without_paths(event: &'a AgentFsEvent) -> Self {
        Self {
            event,
            path: &[],
            aux: &[],
            len: HEAD_LEN,
        }
    }

    #[inline]
    pub(crate) fn write_to(&self, slot: &mut [u8]) {
        // The slot has the encoded length, so this cannot fail.
        let written = write_to(slot, self.event, self.path, self.aux);
        debug_assert_eq!(written, Ok(()), "a slot of the encoded length");
    }

    /// Appends the record to those that wait.
    pub(crate) fn spill_into(&self, spill: &mut Spill) -> Ordinal {
        spill.push(self.len, |slot| self.write_to(slot))
    }
}
