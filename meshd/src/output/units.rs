//! Numbers with units, short enough for a table.

/// `1.5 MB`; powers of 1000.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would show as 1000.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `45 s`, `3 min`, `5 h`, `12 d`: the largest unit that leaves at least two of it, or minutes.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `0.21 ms`, `17.3 ms`, `250 ms`.
pub fn milliseconds(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.2} ms"),
        1.0..100.0 => format!("{value:.1} ms"),
        _ => format!("{value:.0} ms"),
    }
}

/// `0 %`, `0.4 %`, `12 %` for a share from 0 to 1.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value > 0.0 && value < 9.95 { format!("{value:.1} %") } else { format!("{value:.0} %") }
}

/// Reads a span such as `90s`, `15m`, `24h`, `7d`, or `1h30m`, in seconds.
///
/// # Errors
/// What is expected instead.
pub fn parse_span(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no span of time: write for example 30m, 24h, or 7d");
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(wrong)?;
        let count: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            _ => return Err(wrong()),
        };
        total = count.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if total == 0 { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_short() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_500_000), "1.5 MB");
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(u64::MAX), "18.4 EB");
        assert_eq!([span(5), span(180), span(7_200), span(260_000)], ["5 s", "3 min", "2 h", "3 d"]);
        assert_eq!(
            [milliseconds(0.2), milliseconds(17.34), milliseconds(250.4)],
            ["0.20 ms", "17.3 ms", "250 ms"]
        );
        assert_eq!(
            [percent(0.0), percent(0.004), percent(0.12), percent(1.0)],
            ["0 %", "0.4 %", "12 %", "100 %"]
        );
    }

    #[test]
    fn spans_read() {
        assert_eq!(parse_span("24h"), Ok(86_400));
        assert_eq!(parse_span("1h30m"), Ok(5_400));
        for wrong in ["", "h", "24", "0s", "1w", "-1h", "99999999999999999999s", "ä", "1ä"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_span_or_an_error(text in ".{0,12}") {
            let _ = parse_span(&text);
        }
    }
}
