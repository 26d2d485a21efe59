//! A record between its making and its place in the ring or the spill.

use agentfs_proto::record::{AgentFsEvent, HEAD_LEN, encode, encoded_len};

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

    /// Hands the record to `put` in parts, `len` bytes in all.
    #[inline]
    pub(crate) fn encode(&self, put: impl FnMut(&[u8])) {
        // The paths fit, or there would be no record.
        let encoded = encode(self.event, self.path, self.aux, put);
        debug_assert_eq!(encoded, Ok(()), "a record whose length is known");
    }

    /// Appends the record to those that wait.
    pub(crate) fn spill_into(&self, spill: &mut Spill) -> Ordinal {
        spill.push(self.len, |bytes| {
            self.encode(|part| bytes.extend_from_slice(part));
        })
    }
}
