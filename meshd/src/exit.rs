//! Exit codes; [`crate::cli`] has the one place where an error becomes one.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed |
//! | 2 | nothing changed, where that matters |
//! | 64 | wrong usage or configuration (`EX_USAGE`) |
//! | 69 | the daemon is not running (`EX_UNAVAILABLE`) |
//! | 77 | not permitted (`EX_NOPERM`) |

/// Done.
pub const DONE: u8 = 0;
/// Something did not work.
pub const FAILED: u8 = 1;
/// There was nothing to do.
pub const NOTHING: u8 = 2;
/// Wrong usage or configuration; the message says what to write instead.
pub const USAGE: u8 = 64;
/// The daemon is not running.
pub const UNAVAILABLE: u8 = 69;
/// The user or the system does not permit it; the message says how to get the permission.
pub const NOT_PERMITTED: u8 = 77;

/// An error whose exit code is decided where it arises.
///
/// Most errors get their code from their type by the command line; this one is for a verb's own findings.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments are well formed, but make no sense together or here.
    #[error("{0}")]
    Usage(String),
    /// The daemon does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// The user may not do this.
    #[error("{0}")]
    NotPermitted(String),
}
