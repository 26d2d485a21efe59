//! The part of SSZ (SimpleSerialize, of the Ethereum consensus specification) that the control
//! messages use: unsigned and two's-complement integers, booleans, byte vectors, lists, containers
//! and unions. `Option` is the union of nothing and a value.
//!
//! Written here because the maintained crate brings some 46 crates, which do not belong inside other
//! people's processes. The tests compare every form with that crate.
//!
//! Decoding is strict, so that a value has one encoding: the first offset points just behind the
//! fixed part, offsets never go back, and no byte is left over. The space it takes is bounded by the
//! length of the input.

mod declare;

use std::fmt;

pub(crate) use self::declare::{answers, container, numbered, requests, union};

/// Bytes of an offset.
const OFFSET: usize = 4;

/// A value with an SSZ encoding.
pub trait Ssz: Sized {
    /// The size of every encoding of this type, or `None` when it varies.
    const FIXED_LEN: Option<usize>;

    /// Returns the size of this value's encoding.
    fn ssz_len(&self) -> usize;

    /// Appends the encoding.
    fn ssz_append(&self, out: &mut Vec<u8>);

    /// Reads the value that fills `bytes`.
    ///
    /// # Errors
    ///
    /// [`SszError`] when `bytes` is not the encoding of a value.
    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError>;
}

/// Why bytes are not the encoding of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SszError {
    /// A value of fixed size, or a list of them, has another number of bytes.
    Length {
        /// Bytes of one value.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The fixed part of a container ends early, or an offset is cut off.
    TooShort,
    /// An offset points into the fixed part, backwards, or past the end.
    Offset(u32),
    /// A boolean is neither 0 nor 1.
    Bool(u8),
    /// A union has no variant of this number.
    Selector(u8),
    /// A text is not UTF-8.
    Utf8,
}

impl fmt::Display for SszError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, found } => {
                write!(f, "{found} bytes where values of {expected} bytes belong")
            }
            Self::TooShort => write!(f, "the message ends early"),
            Self::Offset(offset) => write!(f, "offset {offset} points to no value"),
            Self::Bool(byte) => write!(f, "a boolean is 0 or 1, not {byte}"),
            Self::Selector(number) => write!(f, "there is no variant {number}"),
            Self::Utf8 => write!(f, "a text is not UTF-8"),
        }
    }
}

impl std::error::Error for SszError {}

macro_rules! ssz_integer {
    ($($int:ty)*) => {$(
        impl Ssz for $int {
            const FIXED_LEN: Option<usize> = Some(size_of::<$int>());

            fn ssz_len(&self) -> usize {
                size_of::<$int>()
            }

            fn ssz_append(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
                <[u8; size_of::<$int>()]>::from_ssz(bytes).map(<$int>::from_le_bytes)
            }
        }
    )*};
}

ssz_integer!(u8 u16 u32 u64 i32 i64);

impl<const N: usize> Ssz for [u8; N] {
    const FIXED_LEN: Option<usize> = Some(N);

    fn ssz_len(&self) -> usize {
        N
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        bytes.try_into().map_err(|_| SszError::Length {
            expected: N,
            found: bytes.len(),
        })
    }
}

impl Ssz for bool {
    const FIXED_LEN: Option<usize> = Some(1);

    fn ssz_len(&self) -> usize {
        1
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        match u8::from_ssz(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            byte => Err(SszError::Bool(byte)),
        }
    }
}

impl Ssz for String {
    const FIXED_LEN: Option<usize> = None;

    fn ssz_len(&self) -> usize {
        self.len()
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| SszError::Utf8)
    }
}

impl<T: Ssz> Ssz for Option<T> {
    const FIXED_LEN: Option<usize> = None;

    fn ssz_len(&self) -> usize {
        1 + self.as_ref().map_or(0, Ssz::ssz_len)
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.ssz_append(out);
        }
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        match bytes.split_first().ok_or(SszError::TooShort)? {
            (0, []) => Ok(None),
            (0, rest) => Err(SszError::Length {
                expected: 0,
                found: rest.len(),
            }),
            (1, value) => T::from_ssz(value).map(Some),
            (number, _) => Err(SszError::Selector(*number)),
        }
    }
}

impl<T: Ssz> Ssz for Vec<T> {
    const FIXED_LEN: Option<usize> = None;

    fn ssz_len(&self) -> usize {
        match T::FIXED_LEN {
            Some(len) => len * self.len(),
            None => self.iter().map(|value| OFFSET + value.ssz_len()).sum(),
        }
    }

    fn ssz_append(&self, out: &mut Vec<u8>) {
        if T::FIXED_LEN.is_none() {
            let mut offset = OFFSET * self.len();
            for value in self {
                append_offset(offset, out);
                offset += value.ssz_len();
            }
        }
        for value in self {
            value.ssz_append(out);
        }
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        match T::FIXED_LEN {
            Some(expected) => {
                if expected == 0 || !bytes.len().is_multiple_of(expected) {
                    return Err(SszError::Length {
                        expected,
                        found: bytes.len(),
                    });
                }
                bytes.chunks_exact(expected).map(T::from_ssz).collect()
            }
            None => list_of_variable(bytes),
        }
    }
}

fn list_of_variable<T: Ssz>(bytes: &[u8]) -> Result<Vec<T>, SszError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let (raw_first, first) = offset_at(bytes, 0)?;
    if first == 0 || !first.is_multiple_of(OFFSET) || first > bytes.len() {
        return Err(SszError::Offset(raw_first));
    }
    let mut start = first;
    let mut values = Vec::with_capacity(first / OFFSET);
    for next in (OFFSET..=first).step_by(OFFSET) {
        let end = if next == first {
            bytes.len()
        } else {
            checked_offset(bytes, next, start)?
        };
        values.push(T::from_ssz(
            bytes.get(start..end).ok_or(SszError::TooShort)?,
        )?);
        start = end;
    }
    Ok(values)
}

/// Returns the offset written at `at`, as it is and as a length.
fn offset_at(bytes: &[u8], at: usize) -> Result<(u32, usize), SszError> {
    let raw = bytes
        .get(at..at.saturating_add(OFFSET))
        .ok_or(SszError::TooShort)?;
    let offset = u32::from_ssz(raw)?;
    Ok((
        offset,
        usize::try_from(offset).map_err(|_| SszError::Offset(offset))?,
    ))
}

/// Returns the offset written at `at`, when it lies between `start` and the end.
fn checked_offset(bytes: &[u8], at: usize, start: usize) -> Result<usize, SszError> {
    let (raw, offset) = offset_at(bytes, at)?;
    if offset < start || offset > bytes.len() {
        return Err(SszError::Offset(raw));
    }
    Ok(offset)
}

fn append_offset(offset: usize, out: &mut Vec<u8>) {
    // A message that does not fit its frame is refused when the frame is made, so nobody ever sees
    // an offset that was cut to its largest value.
    u32::try_from(offset).unwrap_or(u32::MAX).ssz_append(out);
}

/// Bytes that a type takes in the fixed part of a container.
const fn part_len(fixed: Option<usize>) -> usize {
    match fixed {
        Some(len) => len,
        None => OFFSET,
    }
}

/// Returns the size of the fixed part of a container with these fields.
pub(crate) const fn fixed_part(fields: &[Option<usize>]) -> usize {
    let mut sum = 0;
    let mut index = 0;
    while index < fields.len() {
        sum += part_len(fields[index]);
        index += 1;
    }
    sum
}

/// Returns the size of a container with these fields, when all of them are of fixed size.
pub(crate) const fn container_len(fields: &[Option<usize>]) -> Option<usize> {
    let mut index = 0;
    while index < fields.len() {
        if fields[index].is_none() {
            return None;
        }
        index += 1;
    }
    Some(fixed_part(fields))
}

/// Appends a field to the fixed part of a container whose next variable field starts at `offset`.
pub(crate) fn append_fixed_part<T: Ssz>(field: &T, offset: &mut usize, out: &mut Vec<u8>) {
    if T::FIXED_LEN.is_some() {
        field.ssz_append(out);
    } else {
        append_offset(*offset, out);
        *offset += field.ssz_len();
    }
}

/// Cuts the bytes of a container into its fields.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
    remaining: &'a [Option<usize>],
    fixed_at: usize,
    variable_at: usize,
}

impl<'a> Fields<'a> {
    /// Starts with the first of `fields`. Fails when the fixed part does not fit, or the first offset
    /// does not follow it.
    pub(crate) fn new(bytes: &'a [u8], fields: &'a [Option<usize>]) -> Result<Self, SszError> {
        let fixed_part = fixed_part(fields);
        if bytes.len() < fixed_part {
            return Err(SszError::TooShort);
        }
        let mut cut = Self {
            bytes,
            remaining: fields,
            fixed_at: 0,
            variable_at: bytes.len(),
        };
        if let Some(at) = cut.next_offset_at() {
            let (raw, first) = offset_at(bytes, at)?;
            if first != fixed_part {
                return Err(SszError::Offset(raw));
            }
            cut.variable_at = first;
        } else if bytes.len() != fixed_part {
            return Err(SszError::Length {
                expected: fixed_part,
                found: bytes.len(),
            });
        }
        Ok(cut)
    }

    /// Returns where the offset of the next field of variable size is written.
    fn next_offset_at(&self) -> Option<usize> {
        let before = self.remaining.iter().position(Option::is_none)?;
        Some(self.fixed_at + fixed_part(self.remaining.get(..before)?))
    }

    /// Reads the next field, which is a `T`.
    pub(crate) fn field<T: Ssz>(&mut self) -> Result<T, SszError> {
        self.remaining = self.remaining.get(1..).unwrap_or_default();
        let fixed_end = self.fixed_at + part_len(T::FIXED_LEN);
        let range = if T::FIXED_LEN.is_some() {
            self.fixed_at..fixed_end
        } else {
            let start = self.variable_at;
            self.fixed_at = fixed_end;
            self.variable_at = match self.next_offset_at() {
                Some(at) => checked_offset(self.bytes, at, start)?,
                None => self.bytes.len(),
            };
            start..self.variable_at
        };
        self.fixed_at = fixed_end;
        T::from_ssz(self.bytes.get(range).ok_or(SszError::TooShort)?)
    }
}
