//! Sizes, times and rates as a person reads them.

/// Returns a size in the largest binary unit that leaves a number of at least 1.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Returns a length of time: `340 ms`, `8.2 s`, `4 min 11 s`, `2 h 04 min`, `3 d 04 h`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what a duration is")]
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.clamp(0.0, 1e12).round() as u64;
    match whole {
        _ if seconds < 0.0095 => format!("{:.1} ms", seconds.max(0.0) * 1000.0),
        _ if seconds < 0.9995 => format!("{:.0} ms", seconds * 1000.0),
        _ if seconds < 59.95 => format!("{seconds:.1} s"),
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Returns a length of time given in milliseconds.
pub fn millis(ms: f64) -> String {
    seconds(ms / 1000.0)
}

/// Returns a count with thin groups: `1 204 118`.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns `1 table`, `2 tables`.
pub fn plural(n: usize, one: &str) -> String {
    format!("{n} {one}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_keep_the_digits_that_matter() {
        assert_eq!([0, 1023, 1536, 50_331_648].map(bytes), ["0 B", "1023 B", "1.5 KiB", "48.0 MiB"]);
        assert_eq!(bytes(5 << 40), "5.0 TiB");
        let times = [0.0042, 0.34, 0.9996, 8.24, 59.97, 251.0, 7441.0, 273_600.0].map(seconds);
        assert_eq!(times, ["4.2 ms", "340 ms", "1.0 s", "8.2 s", "1 min 00 s", "4 min 11 s", "2 h 04 min", "3 d 04 h"]);
        assert_eq!([1, 999, 1000, 1_204_118].map(count).join("|").replace('\u{202f}', " "), "1|999|1 000|1 204 118");
    }
}
