//! `meshd why`.

use std::process::ExitCode;

use super::{Global, expect_answer};
use crate::api::{Peer, Request};
use crate::output::{self, Style, units};

/// Arguments of `meshd why`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  meshd why second\n  meshd why 10.99.0.2 --json | jq '.paths[0]'")]
pub(super) struct Args {
    /// The member's name, overlay address, or member id
    peer: String,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or knows no such peer.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let why = expect_answer!(client, Request::Why { peer: self.peer }, Why(why) => why)?;
        let text = if global.json {
            output::json_line(&why)?
        } else {
            let peer = &why.peer;
            let head = format!("{} is {}\n", peer.name, peer.state.word());
            let decided = why.decision.as_ref().map_or_else(String::new, |decision| {
                let again = match decision.looked_at_again_ms {
                    Some(ms) => format!("looked at again in {}", units::milliseconds(ms)),
                    None => "not looked at again until somebody needs it".into(),
                };
                let since = units::span(decision.since_s as u64);
                format!("path chosen {since} ago: {}; {again}\n", decision.reason)
            });
            head + &quantum(peer) + &decided + &output::candidates(&why.paths, Style::of_stdout())
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether the session is post-quantum, and why not.
fn quantum(peer: &Peer) -> String {
    let is = match peer.post_quantum.as_deref() {
        Some("hybrid") => "yes (X25519 and ML-KEM-768)",
        Some("pending") => "not yet, keys are being exchanged",
        Some("off") => "no, `pq` is \"off\" here",
        Some(_) => "no, `pq` is \"off\" there, or its meshd is too old",
        None => return String::new(),
    };
    let withheld =
        if peer.withheld { "; packets are withheld, because one of the two requires it" } else { "" };
    format!("post-quantum: {is}{withheld}\n")
}
