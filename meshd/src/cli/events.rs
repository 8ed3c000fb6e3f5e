//! `meshd events`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Global, expect_answer};
use crate::api::{Happening, Request};
use crate::output::{self, Style};

/// How often `--watch` asks for more.
const EVERY: Duration = Duration::from_millis(300);

/// Arguments of `meshd events`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  meshd events\n  meshd events second --watch\n  meshd events --json | jq -c 'select(.kind == \"path-changed\")'"
)]
pub(super) struct Args {
    /// Only those of this member
    peer: Option<String>,
    /// Go on, and show what happens as it happens
    #[arg(long)]
    watch: bool,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let (mut after, mut first) = (0, true);
        loop {
            let mut events: Vec<Happening> =
                expect_answer!(client, Request::Events { after }, Events { events } => events)?;
            after = events.last().map_or(after, |last| last.number);
            events.retain(|event| self.peer.as_ref().is_none_or(|peer| *peer == event.peer));
            output::print(&text(&events, global.json, first)?)?;
            if !self.watch {
                return Ok(ExitCode::SUCCESS);
            }
            first = false;
            std::thread::sleep(EVERY);
        }
    }
}

fn text(events: &[Happening], json: bool, head: bool) -> anyhow::Result<String> {
    if json {
        return events.iter().map(output::json_line).collect();
    }
    if events.is_empty() && !head {
        return Ok(String::new());
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let table = output::events(events, now_ms, Style::of_stdout());
    // Later pieces need no second head.
    Ok(if head { table } else { table.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned()) })
}
