//! Writes to standard output, as text or JSON.

pub(crate) mod failure;

use std::fmt;
use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use self::failure::Failure;

pub(crate) use agentfs_export::utc::time_text;

/// Standard output.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            out: BufWriter::new(io::stdout().lock()),
        }
    }

    /// Returns whether the output is JSON, for a program.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one line for people.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Result<(), Failure> {
        writeln!(self.out, "{line}").map_err(Failure::Output)
    }

    /// Writes one line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.out, value)
            .map_err(|error| Failure::Output(error.into()))?;
        self.out.write_all(b"\n").map_err(Failure::Output)
    }

    /// Writes bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(Failure::Output)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A table with aligned columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let padding = width + 2 - cell.chars().count();
                line.extend(std::iter::repeat_n(' ', padding));
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

/// Returns a size for people: `812 bytes`, `3.4 KiB`, `12 MiB`.
pub(crate) fn size_text(bytes: u64) -> String {
    let mut unit = 1;
    let mut name = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        if bytes / unit < 1024 {
            break;
        }
        (unit, name) = (unit * 1024, larger);
    }
    let (whole, tenths) = (bytes / unit, bytes % unit * 10 / unit);
    match unit > 1 && whole < 10 {
        true => format!("{whole}.{tenths} {name}"),
        false => format!("{whole} {name}"),
    }
}

/// Returns an age for people in its largest unit: `5 s`, `3 min`, `2 h`, `9 d`.
pub(crate) fn age_text(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns permissions as ls(1) shows them: `-rw-r--r--`.
pub(crate) fn mode_text(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o020_000 => 'c',
        0o060_000 => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Table, age_text, mode_text, size_text, time_text};

    #[test]
    fn sizes_and_ages_have_the_unit_in_which_they_are_short() {
        let sizes = [0, 1023, 1024, 10_239, 10_240, 5 << 30, u64::MAX].map(size_text);
        assert_eq!(
            sizes,
            [
                "0 bytes",
                "1023 bytes",
                "1.0 KiB",
                "9.9 KiB",
                "10 KiB",
                "5.0 GiB",
                "15 EiB"
            ]
        );
        let ages = [0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(age_text);
        assert_eq!(
            ages,
            [
                "0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "1 d", "10 d"
            ]
        );
    }

    #[test]
    fn modes_look_as_in_ls() {
        let texts = [
            0o100_644, 0o040_755, 0o120_777, 0o104_755, 0o041_777, 0o102_644,
        ]
        .map(mode_text);
        assert_eq!(
            texts,
            [
                "-rw-r--r--",
                "drwxr-xr-x",
                "lrwxrwxrwx",
                "-rwsr-xr-x",
                "drwxrwxrwt",
                "-rw-r-Sr--"
            ]
        );
    }

    #[test]
    fn times_are_dates() {
        let second = 1_000_000_000;
        assert_eq!(time_text(0), "1970-01-01 00:00:00");
        assert_eq!(time_text(-1), "1969-12-31 23:59:59");
        assert_eq!(time_text(951_782_400 * second), "2000-02-29 00:00:00");
        assert_eq!(time_text(1_772_368_205 * second), "2026-03-01 12:30:05");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["1".to_owned(), "main".to_owned()]);
        table.row(["100".to_owned(), "é".to_owned()]);
        assert_eq!(table.to_string(), "ID   NAME\n1    main\n100  é");
    }
}
