//! Measured figures, printed so that they can be found in the output of a test run.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::str::FromStr;

/// Names a file that figures are added to, for the summary at the end of `make test`.
const FILE: &str = "MESHNET_FIGURES";

/// Tells a measured figure: `scenario: value`, on standard output, and in the file that the environment names.
///
/// # Panics
/// When there is such a file, and it cannot be written.
pub fn figure(scenario: &str, value: impl Display) {
    let line = format!("{scenario}: {value}\n");
    print!("{line}");
    if let Some(path) = std::env::var_os(FILE) {
        // One write each: scenarios run side by side.
        let added = File::options()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut it| it.write_all(line.as_bytes()));
        super::done(added);
    }
}

/// How much of something to do: an environment variable, or this much on an ordinary day.
///
/// # Panics
/// When the variable is set to something else than a number.
pub fn limit<T: FromStr>(variable: &str, otherwise: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => otherwise,
    }
}
