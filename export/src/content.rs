//! Copies and compares contents of files. Holes stay holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::cancel::CancelToken;
use crate::error::StepResult;

/// How many bytes are copied at a time.
pub(crate) const PIECE: usize = 1 << 20;
/// The usual block of a file. A block of zeros is not written.
pub(crate) const BLOCK: usize = 4096;

/// Writes the blocks that are not zero. The caller leaves holes where the others would be.
pub(crate) fn write_sparse(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let is_zero = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
        let mut blocks = rest.chunks(BLOCK);
        let zeros: usize = blocks.by_ref().take_while(is_zero).map(<[u8]>::len).sum();
        let data = rest.get(zeros..).unwrap_or_default();
        let blocks = data.chunks(BLOCK);
        let len: usize = blocks.take_while(|it| !is_zero(it)).map(<[u8]>::len).sum();
        let data = data.get(..len).unwrap_or_default();
        file.write_all_at(data, at + (written + zeros) as u64)?;
        written += zeros + len;
    }
    Ok(())
}

/// Copies a file to a new one and returns its size.
pub(crate) fn copy(from: &File, to: &File, stop: &CancelToken) -> StepResult<u64> {
    let size = from.metadata()?.len();
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while let Some(data) = next_data(from, at, size)? {
        at = data.start;
        while at < data.end {
            stop.check()?;
            let piece = piece(&mut buffer, data.end - at);
            let read = from.read_at(piece, at)?;
            if read == 0 {
                // The file was truncated meanwhile.
                break;
            }
            write_sparse(to, at, piece.get(..read).unwrap_or_default())?;
            at += read as u64;
        }
        at = data.end;
    }
    to.set_len(size)?;
    Ok(size)
}

/// Returns whether two files hold the same bytes.
pub(crate) fn is_same(one: &File, other: &File, stop: &CancelToken) -> StepResult<bool> {
    let size = one.metadata()?.len();
    if other.metadata()?.len() != size {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let next = [next_data(one, at, size)?, next_data(other, at, size)?];
        let Some(start) = next.iter().flatten().map(|data| data.start).min() else {
            return Ok(true);
        };
        stop.check()?;
        let left = piece(&mut left, size - start);
        let right = piece(&mut right, size - start);
        one.read_exact_at(left, start)?;
        other.read_exact_at(right, start)?;
        if left != right {
            return Ok(false);
        }
        at = start + left.len() as u64;
    }
}

fn piece(buffer: &mut [u8], at_most: u64) -> &mut [u8] {
    let len = buffer.len();
    let len = usize::try_from(at_most).map_or(len, |it| it.min(len));
    buffer.get_mut(..len).unwrap_or_default()
}

/// Returns the next range of data from an offset on. Without support for holes that is the whole rest.
fn next_data(file: &File, at: u64, size: u64) -> io::Result<Option<Range<u64>>> {
    if at >= size {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok(Some(at..size)),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?.min(size);
    Ok((start < end).then_some(start..end))
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, CancelToken, PIECE, copy, is_same, write_sparse};
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    fn file() -> File {
        tempfile::tempfile().expect("a file")
    }

    #[test]
    fn zeros_take_no_room() {
        let target = file();
        let mut bytes = vec![0; PIECE];
        bytes[5 * BLOCK] = 1;
        bytes[PIECE - 1] = 2;
        write_sparse(&target, 0, &bytes).expect("written");
        let mut read = vec![9; PIECE];
        target.read_exact_at(&mut read, 0).expect("read");
        assert!(read == bytes, "the same bytes");
        let blocks = target.metadata().expect("metadata").blocks();
        assert!(blocks <= 64, "{blocks} blocks");
    }

    #[test]
    fn a_hole_of_200_gib_is_copied_and_compared_at_once() {
        let (from, to, stop) = (file(), file(), CancelToken::default());
        from.set_len(200 << 30).expect("long");
        from.write_all_at(b"in the middle", 100 << 30)
            .expect("written");
        assert_eq!(copy(&from, &to, &stop).ok(), Some(200 << 30));
        assert_eq!(is_same(&from, &to, &stop).ok(), Some(true));
        let blocks = to.metadata().expect("metadata").blocks();
        assert!(blocks <= 64, "{blocks} blocks");
        to.write_all_at(b"x", (100 << 30) + 3).expect("written");
        assert_eq!(is_same(&from, &to, &stop).ok(), Some(false));
    }

    #[test]
    fn what_is_asked_to_end_ends() {
        let (from, to, stop) = (file(), file(), CancelToken::default());
        from.write_all_at(b"text", 0).expect("written");
        stop.cancel();
        copy(&from, &to, &stop).expect_err("it was asked to end");
    }
}
