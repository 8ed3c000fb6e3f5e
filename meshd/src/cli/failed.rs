//! The one place where an error becomes an exit code.

use std::process::ExitCode;

use crate::api::client;
use crate::exit::{FAILED, Failure, NOT_PERMITTED, UNAVAILABLE, USAGE};
use crate::state::HomeError;
use crate::{config, daemon, founding, sandbox, stack, state};

/// The exit code for an error: the first error in its chain that has one decides, otherwise it is [`FAILED`].
fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of_cause).unwrap_or(FAILED)
}

/// Prints `error` with its causes on standard error and gives the code to exit with.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("meshd: {error:#}");
    ExitCode::from(code_of(error))
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return Some(match failure {
            Failure::Usage(_) => USAGE,
            Failure::Unavailable(_) => UNAVAILABLE,
            Failure::NotPermitted(_) => NOT_PERMITTED,
        });
    }
    if let Some(error) = cause.downcast_ref::<client::Error>() {
        return Some(match error {
            client::Error::NotRunning(_) => UNAVAILABLE,
            client::Error::NotPermitted(_) => NOT_PERMITTED,
            client::Error::Broken { .. } | client::Error::Version(_) => FAILED,
            client::Error::Refused(refusal) => refusal.code,
        });
    }
    if let Some(error) = cause.downcast_ref::<config::Error>() {
        return match error {
            config::Error::Invalid(_) => Some(USAGE),
            config::Error::Unreadable { source, .. } => Some(code_of_io(source).unwrap_or(USAGE)),
        };
    }
    if cause.is::<config::Invalid>() || cause.is::<stack::components::CatalogueError>() {
        return Some(USAGE);
    }
    // Transparent errors are not in the chain themselves.
    if let Some(HomeError::State(error)) = cause.downcast_ref::<HomeError>() {
        return code_of_state(error);
    }
    if let Some(founding::Error::State(error)) = cause.downcast_ref::<founding::Error>() {
        return code_of_state(error);
    }
    if let Some(error) = cause.downcast_ref::<state::Error>() {
        return code_of_state(error);
    }
    if let Some(error) = cause.downcast_ref::<daemon::Error>() {
        return match error {
            daemon::Error::Permission(_) => Some(NOT_PERMITTED),
            daemon::Error::Listen { .. }
            | daemon::Error::Streams { .. }
            | daemon::Error::Interface { .. } => Some(FAILED),
            daemon::Error::ControlSocket { source, .. } => code_of_io(source),
        };
    }
    if cause.is::<sandbox::Unavailable>() {
        return Some(NOT_PERMITTED);
    }
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        return code_of_io(io);
    }
    None
}

fn code_of_state(error: &state::Error) -> Option<u8> {
    match error {
        state::Error::Owner { .. } | state::Error::Open { .. } => Some(NOT_PERMITTED),
        _ => None,
    }
}

fn code_of_io(error: &std::io::Error) -> Option<u8> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem).then_some(NOT_PERMITTED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_code_is_found_below_any_context() {
        let error = Err::<(), _>(Failure::Usage("no".into())).context("while reading").unwrap_err();
        assert_eq!(code_of(&error), USAGE);
        assert_eq!(code_of(&anyhow::anyhow!("other")), FAILED);
        let denied = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        assert_eq!(code_of(&denied.context("opening")), NOT_PERMITTED);
    }
}
