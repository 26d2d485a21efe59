//! Handshake, errors and signs of life.

use std::fmt;

use crate::ssz::{Ssz, SszError, container};

/// A secret that binds a session to a branch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
pub struct Token(pub [u8; 16]);

impl Token {
    /// Reads the 32 hexadecimal digits that [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut token = [0; 16];
        if digits.len() != 2 * token.len() {
            return None;
        }
        for (byte, pair) in token.iter_mut().zip(digits.chunks_exact(2)) {
            let text = std::str::from_utf8(pair).ok()?;
            if text.starts_with('+') {
                return None;
            }
            *byte = u8::from_str_radix(text, 16).ok()?;
        }
        Some(Self(token))
    }
}

/// The digits, to be handed to a program in its environment.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Without the digits, so that no log has them.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Ssz for Token {
    const FIXED_LEN: Option<usize> = Some(16);

    fn ssz_len(&self) -> usize {
        self.0.len()
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        self.0.ssz_append(out);
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        <[u8; 16]>::from_ssz(bytes).map(Self)
    }
}

container! {
    /// Opens a session. The daemon takes the process from the socket, not from here.
    pub struct Hello {
        /// The lowest version the program speaks.
        pub version_min: u32,
        /// The highest version the program speaks.
        pub version_max: u32,
        /// What the program calls itself, for people.
        pub program: String,
        /// Binds the session to the token's branch: it sees nothing else. Without a token the
        /// session is the owner's and may name branches.
        pub token: Option<Token>,
        /// For a session without token: the branch it works in when a request names none; empty is
        /// `main`.
        pub branch: String,
    }

    /// The session is open.
    pub struct Welcome {
        /// The version both speak from now on.
        pub version: u32,
        /// The number of the session.
        pub session: u64,
        /// The branch the session is bound to or works in.
        pub branch: u64,
        /// Its name.
        pub branch_name: String,
        /// The daemon's process.
        pub daemon_pid: u32,
        /// A random number: another one for each start of a daemon. Nodes of an earlier one are not
        /// those of this one, whatever their numbers.
        pub instance: u64,
        /// How many queues the session may open.
        pub max_queues: u32,
        /// How many watches the session may have.
        pub max_watches: u32,
    }

    /// The request was carried out.
    pub struct Done {
        /// A number that the request has for an answer, or 0.
        pub value: u64,
    }

    /// The request waits until others are done; its answer comes later, under the same number. A program
    /// that closes the connection meanwhile takes the request back.
    pub struct Waiting {
        /// How many go first.
        pub ahead: u64,
    }

    /// Asks for [`Done`] with the same number.
    pub struct Ping {
        /// Any number.
        pub nonce: u64,
    }

    /// Why a request was refused.
    pub struct ErrorReply {
        /// The class of the error.
        pub code: Code,
        /// The `errno` of a filesystem operation, numbered as on Linux; 0 for others.
        pub errno: u32,
        /// What failed, and the way out.
        pub message: String,
    }
}

/// The class of an error. Numbers without a name come from a newer daemon.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "json", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "json", serde(transparent))]
pub struct Code(pub u32);

impl Code {
    /// The frame is no message. The connection ends.
    pub const MALFORMED: Self = Self(1);
    /// No version is spoken by both.
    pub const VERSION: Self = Self(2);
    /// The first request was not [`Hello`], or a later one was.
    pub const HANDSHAKE: Self = Self(3);
    /// The token is not known, or the session is bound to another branch.
    pub const FORBIDDEN: Self = Self(4);
    /// There is no such branch, snapshot, queue, watch, handle or page.
    pub const NOT_FOUND: Self = Self(5);
    /// The name or number is taken.
    pub const EXISTS: Self = Self(6);
    /// A field has a value that makes no sense.
    pub const INVALID: Self = Self(7);
    /// The session has as many as it may have.
    pub const LIMIT: Self = Self(8);
    /// This daemon or machine cannot do that.
    pub const UNSUPPORTED: Self = Self(9);
    /// A filesystem operation failed; `errno` says how.
    pub const FILESYSTEM: Self = Self(10);
    /// The daemon failed to get memory or descriptors.
    pub const RESOURCES: Self = Self(11);
    /// The branch is in use: mounted, or the base of others.
    pub const BUSY: Self = Self(12);
    /// The daemon is ending.
    pub const SHUTTING_DOWN: Self = Self(13);
    /// Changes on both sides contradict each other.
    pub const CONFLICT: Self = Self(14);
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::MALFORMED => "malformed message",
            Self::VERSION => "no common version",
            Self::HANDSHAKE => "handshake out of order",
            Self::FORBIDDEN => "forbidden",
            Self::NOT_FOUND => "not found",
            Self::EXISTS => "exists",
            Self::INVALID => "invalid",
            Self::LIMIT => "limit reached",
            Self::UNSUPPORTED => "unsupported",
            Self::FILESYSTEM => "filesystem error",
            Self::RESOURCES => "out of resources",
            Self::BUSY => "busy",
            Self::SHUTTING_DOWN => "shutting down",
            Self::CONFLICT => "conflict",
            Self(number) => return write!(f, "error {number}"),
        })
    }
}

impl Ssz for Code {
    const FIXED_LEN: Option<usize> = Some(4);

    fn ssz_len(&self) -> usize {
        4
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        self.0.ssz_append(out);
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        u32::from_ssz(bytes).map(Self)
    }
}

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorReply {}

impl Hello {
    /// Returns the greeting of a program that speaks this version of the protocol, for the branch
    /// `main`.
    #[must_use]
    pub fn new(program: &str) -> Self {
        Self {
            version_min: super::VERSION_MIN,
            version_max: super::VERSION_MAX,
            program: program.to_owned(),
            token: None,
            branch: String::new(),
        }
    }
}
