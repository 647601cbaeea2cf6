//! Sizes as people write and read them: binary units.

use crate::base::PAGE_SIZE;

const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];

/// `pages` pages in three to four characters, as lsblk does: `812K`, `1.5G`; or in bytes.
pub fn pages(pages: u64, bytes: bool) -> String {
    let exact = pages.saturating_mul(PAGE_SIZE);
    if bytes { exact.to_string() } else { human(exact) }
}

/// `bytes` in three to four characters.
pub fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.5 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    let unit = UNITS[unit];
    let short = if value >= 9.95 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{}{unit}", short.strip_suffix(".0").unwrap_or(&short))
}

/// `bytes` with its sign, for changes: `+3.2M`, `-812K`, `0B`.
pub fn signed(bytes: i64) -> String {
    let size = human(bytes.unsigned_abs());
    match bytes {
        0 => size,
        1.. => format!("+{size}"),
        _ => format!("-{size}"),
    }
}

/// Reads `4096`, `64K`, `1.5GiB`: bytes, in binary units.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size: write a number and a unit, as in 512M or 2GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    let scale = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale).ok_or_else(wrong);
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * scale as f64;
    if !value.is_finite() || value >= 1e18 {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in range, checked above
    Ok(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_lsblk_writes_them() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(4096), "4K");
        assert_eq!(human(1536), "1.5K");
        assert_eq!(human(1023 * 1024), "1023K");
        assert_eq!(human(1024 * 1024 - 1), "1M");
        assert_eq!(human(200 << 20), "200M");
        assert_eq!(pages(2, true), "8192");
        assert_eq!(signed(-4096), "-4K");
        assert_eq!(signed(4096), "+4K");
    }

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(parse("64K"), Ok(65536));
        assert_eq!(parse("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse("10mb"), Ok(10 << 20));
        assert_eq!(parse("7"), Ok(7));
        for wrong in ["", "M", "1X", "-1", "99999999T", "1.2.3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text in ".*") {
            let _ = parse(&text);
        }
    }
}
