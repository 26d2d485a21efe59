//! The numbers of refill doorbells.

use mio::Token;

/// The number of a refill doorbell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct RefillId(pub(crate) u64);

impl RefillId {
    /// Returns the doorbell's token in the event loop: an odd number, as those of connections are even.
    pub(crate) fn token(self) -> Token {
        Token(usize::try_from(self.0 * 2 + 1).unwrap_or(usize::MAX))
    }

    pub(crate) fn from_token(token: Token) -> Option<Self> {
        (token.0 % 2 == 1).then_some(Self(token.0 as u64 / 2))
    }
}
