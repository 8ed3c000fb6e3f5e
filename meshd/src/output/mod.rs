//! Showing the daemon's answers to people: aligned tables, colours only on a terminal.

mod authority;
pub mod graph;
mod keys;
mod tables;
pub mod units;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

pub use authority::{authority, rollover};
pub use keys::{keys, plan, rotation};
pub use tables::{candidates, describe, events, peers, routes, status};

/// How often `--watch` asks again.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What the output may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Whether to use colours.
    pub colour: bool,
    /// Whether a screen can be drawn over.
    pub screen: bool,
}

impl Style {
    /// Colours and redrawing where standard output is a terminal; colours unless `NO_COLOR` is set
    /// (<https://no-color.org>).
    pub fn of_stdout() -> Style {
        let screen = io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style { colour: screen && !refused, screen }
    }

    /// Plain text.
    pub fn plain() -> Style {
        Style { colour: false, screen: false }
    }
}

/// Writes `text` to standard output and flushes it. A reader that has gone away ends the program quietly, as it does
/// for other tools in a pipe.
///
/// # Errors
/// What the system says, other than a closed pipe.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Runs `frame` once, or every [`WATCH_INTERVAL`] with `watch`, drawing over the last frame where that is possible, and
/// marking there what has changed. JSON is a value a line, one each time.
///
/// # Errors
/// The first error of `frame`, or of writing.
pub fn show(
    watch: bool,
    json: bool,
    mut frame: impl FnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    if !watch {
        return Ok(print(&frame()?)?);
    }
    let style = Style::of_stdout();
    let redraw = style.screen && !json;
    let mut last: Option<String> = None;
    loop {
        let text = frame()?;
        match (redraw, json) {
            // Home, then clear each line's rest and what is below: no flicker, as with a full clear.
            (true, _) => {
                let shown = match &last {
                    Some(last) if style.colour => watch::highlight(last, &text),
                    _ => text.clone(),
                };
                // What was on the screen before the first frame goes.
                let home = if last.is_none() { "\x1b[2J\x1b[H" } else { "\x1b[H" };
                print(&format!("{home}{}\x1b[J", shown.replace('\n', "\x1b[K\n")))?;
            }
            (false, false) if last.is_some() => print(&format!("\n{text}"))?,
            _ => print(&text)?,
        }
        last = Some(text);
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Shows how far something is: in place on a terminal, else a line whenever it differs.
#[derive(Debug)]
pub struct Progress {
    redraw: bool,
    last: String,
}

impl Progress {
    /// For standard output; JSON is never drawn over.
    pub fn new(json: bool) -> Progress {
        Progress { redraw: Style::of_stdout().screen && !json, last: String::new() }
    }

    /// Shows `text`, lines with their ends, in the place of what was shown before.
    ///
    /// # Errors
    /// What the system says.
    pub fn show(&mut self, text: &str) -> io::Result<()> {
        if text == self.last {
            return Ok(());
        }
        let up = if self.redraw { self.last.lines().count() } else { 0 };
        let out = match up {
            0 => text.to_owned(),
            // Up to where it began, and each line cleared to its end; what is below goes.
            up => format!("\x1b[{up}A{}\x1b[J", text.replace('\n', "\x1b[K\n")),
        };
        text.clone_into(&mut self.last);
        print(&out)
    }
}

/// `value` as one line of JSON.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn json_line(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    Ok(text)
}
