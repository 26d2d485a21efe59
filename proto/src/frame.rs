//! Frames: a length word and a message.
//!
//! The length is a little-endian `u32` that counts the bytes behind it. A frame has at most
//! [`MAX_FRAME`] bytes, length word included, so a reader needs no more memory than that.

use std::fmt;

use crate::ssz::Ssz;

/// The most bytes of a frame, length word included.
pub const MAX_FRAME: usize = 64 * 1024;

/// Bytes of the length word.
pub const LENGTH_WORD: usize = 4;

/// Why a frame cannot be made or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The message is longer than a frame.
    TooLong {
        /// Bytes that the frame would have.
        len: usize,
    },
    /// A length word of 0: no message is empty.
    Empty,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len } => write!(
                f,
                "a message of {len} bytes exceeds the {MAX_FRAME} of a frame; \
                 send less at once (shorter paths, smaller batches)"
            ),
            Self::Empty => write!(f, "an empty frame is no message"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Appends the frame of `message` to `out`.
///
/// # Errors
///
/// [`FrameError::TooLong`]; `out` is unchanged then.
pub fn append<T: Ssz>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = message.ssz_len();
    let len = LENGTH_WORD.saturating_add(body);
    let word = u32::try_from(body).map_err(|_| FrameError::TooLong { len })?;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong { len });
    }
    out.reserve(len);
    word.ssz_append(out);
    message.ssz_append(out);
    Ok(())
}

/// Returns how many bytes, length word included, the frame has that starts with `word`.
///
/// # Errors
///
/// [`FrameError`] when no frame starts with that word.
pub fn frame_len(word: [u8; LENGTH_WORD]) -> Result<usize, FrameError> {
    let body = usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX);
    let len = LENGTH_WORD.saturating_add(body);
    if body == 0 {
        Err(FrameError::Empty)
    } else if len > MAX_FRAME {
        Err(FrameError::TooLong { len })
    } else {
        Ok(len)
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
}

impl FrameReader {
    /// Adds bytes that were received.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > MAX_FRAME {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns how many bytes are not part of a message handed out yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Returns the next message, without its length word, or `None` when it is not complete.
    ///
    /// # Errors
    ///
    /// [`FrameError`] when the bytes are no frame. Nothing more can be read from the stream then.
    pub fn message(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let pending = self.buffer.get(self.start..).unwrap_or_default();
        let Some(word) = pending.first_chunk::<LENGTH_WORD>() else {
            return Ok(None);
        };
        let len = frame_len(*word)?;
        let Some(message) = pending.get(LENGTH_WORD..len) else {
            return Ok(None);
        };
        self.start += len;
        Ok(Some(message))
    }
}
