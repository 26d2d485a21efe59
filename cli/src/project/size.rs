//! Sizes as a user types them: 500M, 20GiB, 1000000.

/// Reads a size in bytes, or in units of 1,024 of them.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|it: char| !it.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let unit = unit.to_ascii_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(not_a_size()),
    };
    let number: u64 = number.parse().map_err(|_| not_a_size())?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(not_a_size)
}

/// Reads a size as [`size`] does; `none` is 0.
pub(crate) fn limit(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(0),
        _ => size(text).map_err(|why| format!("{why}, or none")),
    }
}

fn not_a_size() -> String {
    "a size is a number of bytes, or with a unit, as in 500M or 20G".to_owned()
}

#[cfg(test)]
mod tests {
    use super::{limit, size};

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("1", 1),
            ("4k", 4096),
            ("500M", 500 << 20),
            ("20GiB", 20 << 30),
            ("2tb", 2 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "G", "-1", "1.5G", "1X", "99999999999T", "none"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!((limit("none"), limit("1G")), (Ok(0), Ok(1 << 30)));
    }
}
