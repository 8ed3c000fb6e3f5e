//! The command line: what can be typed, one verb a file.

mod authority;
mod events;
mod exit_node;
mod failed;
mod follow;
mod graph;
mod init;
mod invite;
mod join;
mod keys;
mod metrics;
mod passphrase;
mod peers;
mod ping;
mod plan;
mod revoke;
mod routes;
mod stack;
mod status;
mod up;
mod why;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use proto::id::Name;

use crate::api::client::Client;
use crate::config::{self, Config};
use crate::demo::{self, DemoArgs};
use crate::exit;

/// Where state lives unless `--state` says otherwise.
pub const DEFAULT_STATE: &str = "/var/lib/meshd";

/// Parses the arguments, runs the verb, and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is no reason to change the exit code.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    cli.run().unwrap_or_else(|error| failed::report(&error))
}

/// A mesh VPN for self-managed clusters.
///
/// Nodes on the same network talk directly, the others through relays, and everything re-routes by itself when
/// something dies.
#[derive(Parser, Debug)]
#[command(name = "meshd", version, propagate_version = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Two machines in two minutes:
  first#  meshd init --mesh home --name first --endpoint first.example.org:4655 --relay
  first#  systemctl start meshd            # or: meshd up
  first#  meshd invite second
  second# meshd join 'meshd://home/...'    # the line that invite printed
  second# systemctl start meshd

Exit codes: 0 done, 1 failed, 2 nothing changed, 64 wrong usage or configuration,
69 the daemon is not running, 77 not permitted.";

/// What every verb understands.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Directory with keys, certificate, and cached records [default: /var/lib/meshd]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "MESHD_STATE",
        hide_env = true,
        help_heading = "Global options"
    )]
    pub state: Option<PathBuf>,
    /// Configuration file [default: STATE/meshd.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "MESHD_CONFIG",
        hide_env = true,
        help_heading = "Global options"
    )]
    pub config: Option<PathBuf>,
    /// Log more; twice: even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// Print JSON, one value a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start a new mesh with this node as its first member
    Init(init::Args),
    /// Print the one line with which another machine joins
    Invite(invite::Args),
    /// Become a member with an invitation
    Join(join::Args),
    /// Run the daemon in the foreground
    Up(up::Args),
    /// Show this node, its peers, and what needs attention
    Status(status::Args),
    /// Show the other members and the paths to them
    Peers(peers::Args),
    /// Show which prefixes lead to which members
    Routes(routes::Args),
    /// Measure the round trip to a member through the overlay
    Ping(ping::Args),
    /// Show every path to a member, and why the one in use was chosen
    Why(why::Args),
    /// Show keys, or replace them: this node's, or those of the whole mesh
    Keys(keys::Args),
    /// Take a member out of the mesh, for good
    Revoke(revoke::Args),
    /// Show the mesh's authority, replace its key, take it offline and back
    Authority(authority::Args),
    /// Show what happened to peers and paths lately
    Events(events::Args),
    /// Reach the internet through another member
    Exit(exit_node::Args),
    /// Print counters and measurements in the text format of Prometheus
    Metrics(metrics::Args),
    /// Draw the mesh: members, links, and the paths in use
    Graph(graph::Args),
    /// Bring up containers across the overlay: ZooKeeper, Mesos, Marathon, and what stands on them
    Stack(stack::Args),
    /// The helper of `meshd up` that runs the configured hooks; not to be run by hand
    #[command(hide = true, name = crate::hooks::queue::VERB)]
    HookRunner,
    /// Build a small mesh in network namespaces on this machine and show it recover
    Demo(DemoArgs),
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        let global = &self.global;
        match self.verb {
            Verb::Init(args) => args.run(global),
            Verb::Invite(args) => args.run(global),
            Verb::Join(args) => args.run(global),
            Verb::Up(args) => args.run(global),
            Verb::Status(args) => args.run(global),
            Verb::Peers(args) => args.run(global),
            Verb::Routes(args) => args.run(global),
            Verb::Ping(args) => args.run(global),
            Verb::Why(args) => args.run(global),
            Verb::Keys(args) => args.run(global),
            Verb::Revoke(args) => args.run(global),
            Verb::Authority(args) => args.run(global),
            Verb::Events(args) => args.run(global),
            Verb::Exit(args) => args.run(global),
            Verb::Metrics(args) => args.run(global),
            Verb::Graph(args) => args.run(global),
            Verb::Stack(args) => args.run(global),
            Verb::HookRunner => crate::hooks::runner::run().map(|()| ExitCode::SUCCESS),
            Verb::Demo(args) => demo::run(&DemoArgs { json: global.json, ..args }),
        }
    }
}

impl Global {
    /// The state directory: what `--state` says, else what the file of `--config` says, else the default.
    ///
    /// # Errors
    /// If the file of `--config` is needed and wrong.
    pub fn state_path(&self) -> Result<PathBuf, config::Error> {
        if let Some(path) = &self.state {
            return Ok(path.clone());
        }
        let configured = match &self.config {
            Some(path) => Config::load(path)?.state,
            None => None,
        };
        Ok(configured.unwrap_or_else(|| DEFAULT_STATE.into()))
    }

    /// The configuration file of a state directory.
    pub fn config_path(&self, state: &Path) -> PathBuf {
        self.config.clone().unwrap_or_else(|| state.join("meshd.toml"))
    }

    /// A connection to the daemon.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.state_path()?.join("meshd.sock"))?)
    }
}

/// Reads a name, and says what to write instead of one that is none.
fn parse_name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|_| {
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let proposal: String = text.trim().chars().map(allowed).take(Name::MAX_LEN).collect();
        let proposal = proposal.trim_matches('-');
        let rule = "a name has 1 to 63 of a-z, 0-9, and -, and does not begin or end with -";
        if proposal.is_empty() { rule.into() } else { format!("{rule}: write for example `{proposal}`") }
    })
}

/// The one answer of a kind that a request has.
///
/// # Errors
/// If the daemon answered something else, as one of another version might.
macro_rules! expect_answer {
    ($client:expr, $request:expr, $kind:ident $fields:tt => $value:expr) => {
        match $client.ask($request)? {
            $crate::api::Answer::$kind $fields => Ok::<_, $crate::api::client::Error>($value),
            _ => Err($client.astray()),
        }
    };
}
use expect_answer;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_wrong_name_gets_a_right_one_proposed() {
        assert!(parse_name("My_Node.").unwrap_err().ends_with("write for example `my-node`"));
        assert!(parse_name("--").unwrap_err().ends_with("end with -"));
        assert!(parse_name(&"Ä".repeat(90)).is_err());
        assert_eq!(parse_name("a-1").unwrap().as_str(), "a-1");
    }

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
