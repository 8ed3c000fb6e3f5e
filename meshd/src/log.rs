//! Logs on standard error: for people on a terminal, for journald under systemd.
//!
//! Levels: ERROR something is lost, WARN an operator should look, INFO what a quiet day looks like, DEBUG what each
//! session and path does, TRACE every datagram of the control plane. Secrets have no `Debug`, so that they cannot be
//! logged by accident.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{self, Format, Full, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;

use crate::config;

/// The crates whose logs are ours; the libraries' are shown from WARN up.
const OURS: [&str; 4] = ["meshd", "meshnet", "proto", "netlab"];

/// Changes the level of a running program.
pub struct Control {
    set: Box<dyn Fn(Targets) + Send + Sync>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Logs from now on what `level` says.
    pub fn set(&self, level: config::Level) {
        (self.set)(filter(level));
    }
}

/// Starts logging at `level`. Only the first call in a process has an effect.
pub fn start(level: config::Level) -> Control {
    let (filter, handle) = reload::Layer::new(filter(level));
    let journal = is_journal();
    let terminal = !journal && io::stderr().is_terminal();
    let inner = tracing_subscriber::fmt::format().with_ansi(terminal);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(terminal)
        .event_format(Lines { inner, journal })
        .with_filter(filter);
    // A second subscriber is refused: the first goes on.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    Control {
        set: Box::new(move |targets| {
            // Fails only when the subscriber is gone.
            let _ = handle.reload(targets);
        }),
    }
}

fn filter(level: config::Level) -> Targets {
    let level = tracing::level_filters::LevelFilter::from(level);
    Targets::new().with_targets(OURS.map(|name| (name, level))).with_default(level.min(Level::WARN.into()))
}

/// Whether standard error goes straight to journald, as systemd.exec(5) describes for `$JOURNAL_STREAM`.
fn is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let Ok(stat) = nix::sys::stat::fstat(io::stderr().as_fd()) else { return false };
    device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino)
}

/// One event a line. journald keeps time and process itself, and takes the priority from a prefix (sd-daemon(3)).
struct Lines {
    inner: Format<Full, SystemTime>,
    journal: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !self.journal {
            return self.inner.format_event(context, writer, event);
        }
        writer.write_str(priority(*event.metadata().level()))?;
        let short = format::Format::default().with_level(false).without_time().with_ansi(false);
        short.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quieter_than_we_are() {
        let filter = filter(config::Level::Debug);
        assert!(filter.would_enable("meshnet::node", &Level::DEBUG));
        assert!(!filter.would_enable("netlink_proto", &Level::INFO));
        assert!(filter.would_enable("netlink_proto", &Level::WARN));
        let quiet = super::filter(config::Level::Error);
        assert!(!quiet.would_enable("netlink_proto", &Level::WARN));
    }
}
