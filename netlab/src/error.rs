//! What can go wrong while a lab is built or used.

use std::io;
use std::path::PathBuf;

/// Why something in a lab did not work. The text is meant to be read by a person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that the lab calls is not installed.
    #[error("`{tool}` is not installed: apt-get install {package}")]
    MissingTool {
        /// The program looked for in `PATH`.
        tool: String,
        /// The Debian package that holds it.
        package: &'static str,
    },
    /// Neither root nor a user namespace is to be had.
    #[error("cannot make network namespaces: {why}\n  {remedy}")]
    Access {
        /// What was tried and failed.
        why: String,
        /// What the user can do.
        remedy: &'static str,
    },
    /// A program failed.
    #[error("`{line}` failed ({status}): {stderr}")]
    Command {
        /// The command line, with its standard input if it had one.
        line: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
    /// A condition did not come true in time.
    #[error("waited {waited_ms} ms for {what}; last seen: {last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited_ms: u128,
        /// What the last look at it gave.
        last: String,
    },
    /// A lab that was taken down is still there.
    #[error("{0} is left behind")]
    LeftBehind(PathBuf),
    /// A name that cannot be part of a namespace's name.
    #[error("{0:?} is no name for a machine: 1 to 24 of a-z, 0-9 and '-'")]
    Name(String),
    /// A program gave an answer that could not be understood.
    #[error("cannot understand the answer of `{line}`: {why}")]
    Answer {
        /// The command line.
        line: String,
        /// What is wrong with its output.
        why: String,
    },
    /// A system call on a file failed.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: a failed system call, with what it was for.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what, source: source.into() }
    }

    /// For `map_err`: a failed system call on a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
