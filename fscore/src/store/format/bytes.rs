//! Numbers and texts as bytes: unsigned numbers as LEB128, signed ones zigzag before that, texts
//! with their length before them.

use std::fmt;

/// Bytes that say what no store says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Malformed {
    /// They end in the middle.
    Short,
    /// A number is larger than what it counts can be.
    Number,
    /// A kind of this name has no such number.
    Kind(&'static str, u64),
    /// An object, branch or snapshot is named that was never there.
    Unknown(&'static str, u64),
    /// Two extents overlap, or one lies where none can.
    Extent(u64),
    /// A name is one that no directory can have, or is kept where names are not looked for.
    Name,
    /// A branch or snapshot is there already.
    Twice(&'static str, u64),
    /// A directory has another name than the one that leads to it, or several.
    Names(u64),
    /// A directory lies in itself.
    Cycle(u64),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("it ends in the middle"),
            Self::Number => f.write_str("a number is too large"),
            Self::Kind(what, number) => write!(f, "there is no {what} of kind {number}"),
            Self::Unknown(what, number) => {
                write!(f, "it names {what} {number}, which is not there")
            }
            Self::Extent(at) => write!(f, "the extent at {at} cannot be, or overlaps another one"),
            Self::Name => f.write_str(
                "a name is one that no directory can have, or that is not found with this case \
                 sensitivity",
            ),
            Self::Twice(what, number) => write!(f, "{what} {number} is made twice"),
            Self::Names(dir) => write!(f, "directory {dir} has not one name alone"),
            Self::Cycle(dir) => write!(f, "directory {dir} lies in itself"),
        }
    }
}

/// The largest number of a branch, snapshot, event or opening that is believed: so many that a
/// program could never count them, and adding to it does not overflow.
const MOST_COUNTED: u64 = 1 << 62;

/// How long a name can be: what FUSE can carry (`FUSE_NAME_MAX`), because the host may have names
/// that are longer than those that can be given in a branch.
const LONGEST_NAME: usize = 1024;

/// Writes values one after the other.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
    /// Where the parts of a change begin, each of which can be read alone.
    parts: Vec<usize>,
}

impl Encoder {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds bytes that another one has written.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Keeps the first bytes alone.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.parts.retain(|part| *part < len);
    }

    /// Begins a part of a change with its kind.
    pub(crate) fn part(&mut self, kind: u8) {
        self.parts.push(self.bytes.len());
        self.bytes.push(kind);
    }

    /// Returns the parts, as many together as have `most` bytes, or one that has more.
    pub(crate) fn in_parts(&self, most: usize) -> impl Iterator<Item = &[u8]> {
        let ends = self.parts.iter().skip(1).copied().chain([self.bytes.len()]);
        let mut ends = ends.peekable();
        let mut start = 0;
        std::iter::from_fn(move || {
            let mut end = ends.next()?;
            while let Some(next) = ends.next_if(|next| next - start <= most) {
                end = next;
            }
            let bytes = self.bytes.get(start..end)?;
            start = end;
            Some(bytes)
        })
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub(crate) fn number(&mut self, number: impl Into<u64>) {
        let mut rest: u64 = number.into();
        while rest >= 0x80 {
            self.bytes.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest.to_le_bytes()[0]);
    }

    pub(crate) fn signed(&mut self, number: i64) {
        self.number((number << 1 ^ number >> 63).cast_unsigned());
    }

    pub(crate) fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text);
    }
}

/// Reads them again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7F);
            if part << shift >> shift != part {
                return Err(Malformed::Number);
            }
            number |= part << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed::Number)
    }

    /// Reads a number that something was given or that was counted, one after the other.
    pub(crate) fn counted(&mut self) -> Result<u64, Malformed> {
        let number = self.number()?;
        if number > MOST_COUNTED {
            return Err(Malformed::Number);
        }
        Ok(number)
    }

    /// Reads a number that is at most `most`.
    pub(crate) fn at_most(&mut self, most: u64) -> Result<u64, Malformed> {
        let number = self.number()?;
        if number > most {
            return Err(Malformed::Number);
        }
        Ok(number)
    }

    /// Reads a name in a directory.
    pub(crate) fn name(&mut self) -> Result<&'a [u8], Malformed> {
        let name = self.text()?;
        let is_short = (1..=LONGEST_NAME).contains(&name.len());
        let is_one = !matches!(name, b"." | b"..") && !name.iter().any(|it| matches!(it, 0 | b'/'));
        if is_short && is_one {
            Ok(name)
        } else {
            Err(Malformed::Name)
        }
    }

    pub(crate) fn small(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed::Number)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Malformed> {
        let number = self.number()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(crate) fn text(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.number()?).map_err(|_| Malformed::Number)?;
        let (text, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(text)
    }

    /// Reads how many values follow, each of at least one byte.
    pub(crate) fn count(&mut self) -> Result<u64, Malformed> {
        let count = self.number()?;
        if count > self.0.len() as u64 {
            return Err(Malformed::Short);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use agentfs_testkit::random::Random;

    use super::{Decoder, Encoder, Malformed};

    #[test]
    fn what_is_written_is_read_again_and_no_part_of_it() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            let number = random.next_u64() >> random.range(0..64);
            let signed = random.next_u64().cast_signed() >> random.range(0..64);
            let mut encoder = Encoder::default();
            encoder.number(number);
            encoder.signed(signed);
            encoder.text(&number.to_le_bytes()[..3]);
            let mut decoder = Decoder::new(encoder.bytes());
            assert_eq!(decoder.number(), Ok(number));
            assert_eq!(decoder.signed(), Ok(signed));
            assert_eq!(decoder.text(), Ok(&number.to_le_bytes()[..3]));
            assert!(decoder.is_empty());
            let cut = &encoder.bytes()[..encoder.bytes().len() - 1];
            let mut decoder = Decoder::new(cut);
            let read = decoder.number().and_then(|_| decoder.signed());
            assert_eq!(read.and_then(|_| decoder.text()), Err(Malformed::Short));
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        let mut decoder = Decoder::new(&[0xFF; 11]);
        assert_eq!(decoder.number(), Err(Malformed::Number));
        let mut decoder = Decoder::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2]);
        assert_eq!(decoder.number(), Err(Malformed::Number));
    }
}
