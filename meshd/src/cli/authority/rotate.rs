//! `meshd authority rotate`, `abort`, `recover`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meshnet::io::clock;
use meshnet::membership::{AuthoritySecret, TrustChain, succeed};
use proto::bundle::SignedBundle;
use rand::rngs::StdRng;

use super::keys::read_key;
use super::{Client, Global, ask};
use crate::api::Request;
use crate::api::authority::Authority;
use crate::api::client::Error;
use crate::cli::expect_answer;
use crate::cli::follow::{LOOK_EVERY, again};
use crate::cli::passphrase::Source;
use crate::output::{self, Style, units};
use crate::state::rollover::Pending;
use crate::state::vault::Content;
use crate::state::{Kind, StateDir};

const ROTATE_HELP: &str = "\
To be run where the authority's key is. A trust bundle that trusts a new key beside the old one goes to everybody; when \
all say that they know it, all certificates are issued anew; when all say that they have theirs, a trust bundle without \
the old key follows, and the old key is overwritten. Members that are away are waited for until --deadline, and come back \
by themselves afterwards. Interrupting this command, the daemon, or the machine does no harm: it goes on.

Examples:
  meshd authority rotate
  meshd authority rotate --detach ; meshd authority show --watch
  meshd authority rotate --without laptop     # also for one that is under way
  meshd authority abort";

/// How the end is waited for.
#[derive(clap::Args, Debug)]
struct Waiting {
    /// Begin, and do not wait for the end
    #[arg(long, conflicts_with = "wait")]
    detach: bool,
    /// Wait for the end, and show how far it is (the default)
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this long; it goes on all the same
    #[arg(long, value_name = "SPAN", default_value = "15m", value_parser = units::parse_span)]
    timeout: u64,
}

/// Arguments of `meshd authority rotate`.
#[derive(clap::Args, Debug)]
#[command(after_help = ROTATE_HELP)]
pub(super) struct Rotate {
    /// Go on without members that have not answered after this long
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = units::parse_span)]
    deadline: u64,
    /// Do not wait for this member; may be repeated
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Arguments of `meshd authority recover`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Makes a new authority on this node, in the place of one that was lost or stolen: all old roots are dropped at once, all \
certificates that this node knows are issued anew. Look at `meshd peers` first, and revoke whom you do not know: what a \
thief has certified before is issued anew as well. docs/keys.md has the steps.

Examples:
  meshd authority recover recovery.age
  meshd authority recover recovery.age --after 3    # bundle 4 and later are the thief's")]
pub(super) struct Recover {
    /// The file with the recovery key, as written by `authority export --recovery` or by `init`
    file: PathBuf,
    /// The newest trust bundle that is still the owner's; later ones are replaced [default: the newest]
    #[arg(long, value_name = "VERSION")]
    after: Option<u32>,
    /// Go on without members that have not answered after this long
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = units::parse_span)]
    deadline: u64,
    #[command(flatten)]
    passphrase: Source,
    #[command(flatten)]
    waiting: Waiting,
}

impl Rotate {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the daemon does not answer, may not, or it does not end in time.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut client = global.client()?;
        let before = expect_answer!(client, Request::Authority, Authority(authority) => *authority)?;
        if before.rollover.is_some() {
            eprintln!("meshd: a roll-over of the authority is under way already: going on with that one");
        }
        let request = Request::RotateAuthority { patience_s: self.deadline, without: self.without };
        let begun = expect_answer!(client, request, Authority(authority) => *authority)?;
        self.waiting.follow(global, client, begun)
    }
}

/// Calls a roll-over off, and follows it back.
///
/// # Errors
/// If the daemon does not answer, or there is none.
pub(super) fn abort(global: &Global) -> anyhow::Result<ExitCode> {
    let mut client = global.client()?;
    let begun = expect_answer!(client, Request::AbortAuthority, Authority(authority) => *authority)?;
    Waiting { detach: false, wait: true, timeout: 900 }.follow(global, client, begun)
}

impl Recover {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the key is not the mesh's recovery key, the daemon does not answer, or it does not end in time.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let recovery = read_key(&self.file, Content::Recovery, &self.passphrase)?;
        let mut client = global.client()?;
        let bundles = expect_answer!(client, Request::Chain, Chain { bundles } => bundles)?;
        let chain = parse_chain(&bundles, self.after).context("the daemon's trust bundles")?;
        if chain.current().recovery != recovery.public() {
            bail!("{} is not the recovery key of {}", self.file.display(), chain.current().name);
        }
        let mut rng: StdRng = rand::make_rng();
        let target = AuthoritySecret::generate(&mut rng);
        let now_s = clock::wall().seconds();
        let bundle = succeed(&chain, &[&recovery, &target], now_s, |next| {
            next.roots = vec![target.public()];
            next.threshold = 1;
        })?;
        let state = StateDir::open(&global.state_path()?)?;
        let pending = Pending {
            target: *target.to_bytes(),
            leaving: None,
            created_s: now_s,
            deadline_s: now_s.saturating_add(self.deadline),
            aborted: false,
            without: Vec::new(),
        };
        // The new key is on the disk before anybody trusts it.
        pending.save(&state)?;
        let request = Request::RecoverAuthority { bundle: STANDARD.encode(bundle.to_bytes()) };
        let begun = expect_answer!(client, request, Authority(authority) => *authority);
        let begun = begun.inspect_err(|error| {
            if matches!(error, Error::Refused(_)) {
                // Nobody has heard of it.
                let _ = state.remove(Kind::Rollover);
            }
        })?;
        self.waiting.follow(global, client, begun)
    }
}

fn parse_chain(bundles: &[String], after: Option<u32>) -> anyhow::Result<TrustChain> {
    let bundles: Vec<SignedBundle> = bundles
        .iter()
        .take(after.map_or(usize::MAX, |after| after as usize))
        .map(|bundle| Ok(SignedBundle::parse(&STANDARD.decode(bundle)?)?))
        .collect::<anyhow::Result<_>>()?;
    let mesh = bundles.first().context("there are none")?.body().mesh;
    Ok(TrustChain::verify(mesh, bundles)?)
}

impl Waiting {
    /// Shows how far it is until it is over.
    fn follow(&self, global: &Global, mut client: Client, begun: Authority) -> anyhow::Result<ExitCode> {
        let target = begun.rollover.as_ref().map(|rollover| rollover.target.clone());
        let target =
            target.unwrap_or_else(|| begun.roots.iter().map(|root| root.fingerprint.clone()).collect());
        let text = |authority: &Authority| match global.json {
            true => output::json_line(authority),
            false => Ok(output::rollover(authority, &target, Style::of_stdout())),
        };
        if self.detach {
            output::print(&text(&begun)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let started = Instant::now();
        let mut screen = output::Progress::new(global.json);
        screen.show(&text(&begun)?)?;
        loop {
            match ask(&mut client) {
                Ok(authority) => {
                    screen.show(&text(&authority)?)?;
                    match &authority.rollover {
                        None if authority.roots.iter().any(|root| root.fingerprint == target) => {
                            return Ok(ExitCode::SUCCESS);
                        }
                        None => bail!("it was called off"),
                        Some(under_way) if under_way.target != target => bail!("it was called off"),
                        Some(under_way) if started.elapsed().as_secs() >= self.timeout => bail!(
                            "it is not over after {}, waiting for {}; it goes on: meshd authority show. To go on \
                             without a member: meshd authority rotate --without NODE",
                            units::span(self.timeout),
                            under_way.waiting_for.join(", ")
                        ),
                        Some(_) => {}
                    }
                }
                Err(Error::Refused(refusal)) => return Err(refusal.into()),
                // The daemon goes on after its restart.
                Err(error) => client = again(global, error)?,
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}
