//! `meshd revoke`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Global, expect_answer};
use crate::api::{Request, RevokeRequest};
use crate::output::{self, units};

/// Arguments of `meshd revoke`.
#[derive(clap::Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Name, overlay address, or id of the member; or the serial of one certificate, 16 hexadecimal digits
    #[arg(value_name = "NODE|SERIAL")]
    target: String,
    /// Why, for those who look later
    #[arg(long, value_enum, default_value = "unspecified")]
    reason: Reason,
    /// For an issuer: certificates that it has issued since so long ago fall too [default: only later ones]
    #[arg(long, value_name = "SPAN", value_parser = units::parse_span)]
    since: Option<u64>,
    /// Take this node itself out of the mesh
    #[arg(long)]
    myself: bool,
}

const HELP: &str = "\
A revocation is for good: the member's sessions end everywhere, nobody relays for it, and its certificates are refused, \
also by nodes that are away now. A machine that is to come back joins again, with a new invitation and new keys.

Examples:
  meshd revoke laptop --reason stolen
  meshd revoke issuer7 --reason stolen --since 2d    # and what it has issued in two days";

#[derive(clap::ValueEnum, Debug, Clone, Copy)]
enum Reason {
    Unspecified,
    Stolen,
    Left,
    Replaced,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, or may not revoke.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let request = Request::Revoke(RevokeRequest {
            target: self.target.clone(),
            reason: self.reason as u8,
            cutoff_s: self.since.map(|since| now_s.saturating_sub(since)),
            myself: self.myself,
        });
        let (members, total) =
            expect_answer!(client, request, Revoked { members, total } => (members, total))?;
        if global.json {
            let value = serde_json::json!({ "ended": members, "revocations": total });
            output::print(&output::json_line(&value)?)?;
        } else if members.is_empty() {
            output::print(&format!("{} is revoked; nobody's membership ended by it now\n", self.target))?;
        } else {
            let others = if members.len() > 1 {
                format!(", and {} others with it", members.len() - 1)
            } else {
                String::new()
            };
            output::print(&format!("{} is revoked{others}\n", self.target))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
