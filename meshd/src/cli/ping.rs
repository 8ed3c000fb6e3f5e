//! `meshd ping`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{Global, expect_answer};
use crate::api::{Pong, Request};
use crate::exit;
use crate::output::{self, units};

/// Arguments of `meshd ping`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Unlike ping(8) this asks the member's meshd, not its kernel, and shows the path.
The exit code is 0 if at least one answer came.

Examples:
  meshd ping second
  meshd ping 10.99.0.2 -c 3 -i 200")]
pub(super) struct Args {
    /// The member's name, overlay address, or member id
    peer: String,
    /// How many to send; without end if 0
    #[arg(short, long, default_value_t = 4)]
    count: u64,
    /// Milliseconds from one to the next
    #[arg(short, long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u32).range(10..))]
    interval: u32,
    /// Milliseconds to wait for an answer
    #[arg(short = 'W', long, default_value_t = 2000, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    timeout: u32,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or knows no such peer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let (mut sent, mut answered) = (0u64, 0u64);
        while self.count == 0 || sent < self.count {
            let started = Instant::now();
            let request = Request::Ping { peer: self.peer.clone(), timeout_ms: self.timeout };
            let pong = expect_answer!(client, request, Pong(pong) => pong)?;
            sent += 1;
            answered += u64::from(pong.rtt_ms.is_some());
            let text = if global.json { output::json_line(&pong)? } else { line(&pong, sent) };
            output::print(&text)?;
            if sent != self.count {
                std::thread::sleep(
                    Duration::from_millis(self.interval.into()).saturating_sub(started.elapsed()),
                );
            }
        }
        if !global.json {
            output::print(&format!("{sent} sent, {answered} answered\n"))?;
        }
        Ok(if answered > 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
    }
}

fn line(pong: &Pong, number: u64) -> String {
    let path = pong.path.as_ref().map(|path| format!(", {}", output::describe(path))).unwrap_or_default();
    match pong.rtt_ms {
        Some(rtt_ms) => format!("{} {number}: {}{path}\n", pong.peer, units::milliseconds(rtt_ms)),
        None => format!("{} {number}: no answer{path}\n", pong.peer),
    }
}
