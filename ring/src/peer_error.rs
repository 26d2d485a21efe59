//! What a producer refuses to believe.

use core::fmt;

use crate::position::Position;

/// The consumer's words make no sense: it is broken or hostile. End its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PeerError {
    /// The head is behind where it was, beyond what was published, or not at a frame.
    Head {
        /// What the word said.
        found: Position,
        /// The least it may be.
        least: Position,
        /// The most it may be.
        most: Position,
    },
    /// The consumer wants to be woken at a position that was never published.
    WakePosition {
        /// What the word said.
        found: Position,
        /// The most it may be.
        most: Position,
    },
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head { found, least, most } => write!(
                f,
                "the consumer's head is {found}, but must be a multiple of 8 from {least} to \
                 {most}: close its session"
            ),
            Self::WakePosition { found, most } => write!(
                f,
                "the consumer wants to be woken at {found}, but nothing beyond {most} was \
                 published: close its session"
            ),
        }
    }
}

impl core::error::Error for PeerError {}
