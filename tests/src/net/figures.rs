//! Measured figures, printed so that they can be found in the output of a test run.

use std::fmt::Display;
use std::str::FromStr;

/// Prints a measured figure: `FIGURE scenario: value`.
pub fn figure(scenario: &str, value: impl Display) {
    println!("FIGURE {scenario}: {value}");
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
