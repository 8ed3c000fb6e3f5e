//! Waiting on a condition with a deadline.

use crate::Error;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks at a condition until it gives `Ok`, at most for `limit`, and once more when that is over: who looks may have stood
/// still meanwhile. `probe` says with `Err` what it saw instead, which ends up in the error.
///
/// # Errors
/// [`Error::Timeout`] with the last thing seen.
pub fn until<T, S: Into<String>>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T, S>,
) -> Result<T, Error> {
    let start = Instant::now();
    loop {
        let is_last = start.elapsed() >= limit;
        let last = match probe() {
            Ok(value) => return Ok(value),
            Err(seen) => seen.into(),
        };
        if is_last {
            return Err(Error::Timeout {
                what: what.to_owned(),
                waited_ms: start.elapsed().as_millis(),
                last,
            });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// [`until`] for a condition that is just true or false.
///
/// # Errors
/// [`Error::Timeout`].
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Result<(), Error> {
    until(what, limit, || if probe() { Ok(()) } else { Err("not yet") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_returned_and_one_that_does_not_is_told() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("{looks} looks")) }
        });
        assert_eq!(value.expect("comes true"), 3);
        let error = until_true("never", Duration::from_millis(30), || false).expect_err("cannot come true");
        assert!(error.to_string().contains("never"), "{error}");
    }
}
