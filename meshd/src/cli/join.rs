//! `meshd join`: this machine becomes a member.

use std::io::Read;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use meshnet::crypto::TransportSecret;
use meshnet::io::clock;
use meshnet::membership::IdentitySecret;
use proto::invitation::Invitation;
use rand::rngs::StdRng;

use super::Global;
use super::init::{Place, check_config, write_config};
use crate::config::Config;
use crate::daemon::streams::Dialer;
use crate::exit::Failure;
use crate::founding::FIRST_EPOCH;
use crate::join::client::{self, Keys};
use crate::output::{self, units};
use crate::state::files::{TransportKey, TransportKeys};
use crate::state::{Home, Kind, PendingJoin, StateDir};

/// Arguments of `meshd join`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Makes this node's keys, has them certified by the inviting node, and writes a configuration
file. If it is interrupted, the same command goes on where it was. Where UDP is blocked it
goes by TCP, if the invitation names a place for that; a `proxy` in the configuration file
is used.

Examples:
  meshd join 'meshd://home/...'
  meshd join - < invitation.txt
  meshd join 'meshd://home/...' --endpoint second.example.org:4655 --relay")]
pub(super) struct Args {
    /// The line that `meshd invite` printed; - reads it from standard input
    url: String,
    #[command(flatten)]
    place: Place,
    /// How long to try, for example 15s or 5m
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = units::parse_span)]
    timeout: u64,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If the invitation is not good, nobody answers, or something cannot be written.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let invitation = read_url(&self.url)?;
        let path = global.state_path()?;
        let state = StateDir::create(&path)?;
        let _lock = state.lock()?;
        if state.has(Kind::Certificate) {
            return already_member(global, state, &invitation);
        }
        let foreign = [Kind::Authority, Kind::Chain].into_iter().find(|kind| state.has(*kind));
        if let (Some(found), false) = (foreign, state.has(Kind::Pending)) {
            bail!(
                "there is something of a mesh in {} already ({} exists); nothing was changed. Use another --state",
                path.display(),
                found.file_name()
            );
        }
        let now_s = clock::wall().seconds();
        if invitation.expires_s <= now_s {
            let ago = units::span(now_s - invitation.expires_s);
            bail!("the invitation expired {ago} ago (by this machine's clock): ask for a new one");
        }
        let config_path = global.config_path(state.path());
        check_config(&config_path, &self.place.choices(&[]))?;
        let config = Config::load_or_default(&config_path)?;
        let dialer = Dialer::new(&config.streams).context("TCP connections")?;

        let mut rng: StdRng = rand::make_rng();
        let pending = pending(&state, &invitation, now_s, &mut rng)?;
        let identity = IdentitySecret::from_bytes(&pending.identity);
        let transport = TransportSecret::new(pending.transport);
        let keys = Keys { identity: &identity, transport: &transport, epoch: &pending.epoch };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let patience = Duration::from_secs(self.timeout);
        let joined = runtime.block_on(client::join(&invitation, &keys, dialer, patience, &mut rng));
        // A name server that does not answer must not hold the program.
        runtime.shutdown_background();
        let welcome = joined?;

        state.write(Kind::Gate, &*welcome.gate)?;
        state.write(Kind::Identity, &pending.identity)?;
        let first =
            TransportKey { number: FIRST_EPOCH.0, secret: pending.transport, epoch: pending.epoch.clone() };
        TransportKeys::first(first).save(&state)?;
        state.write_objects(Kind::Chain, welcome.chain.after(0).iter().map(|bundle| bundle.to_bytes()))?;
        state.write_objects(Kind::Records, &welcome.others)?;
        let certificate = welcome.certificate.body();
        write_config(&config_path, &self.place.choices(&certificate.prefixes))?;
        // The certificate comes last: with it the node is a member.
        let certificates = [Some(&welcome.certificate), welcome.issuer.as_ref()].into_iter().flatten();
        state.write_objects(Kind::Certificate, certificates.map(|one| one.signed().to_bytes()))?;
        state.remove(Kind::Pending)?;

        let home = Home::load(state)?;
        output::print(&report(global, &home, "joined")?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn read_url(argument: &str) -> anyhow::Result<Invitation> {
    /// Longer than any invitation.
    const MAX_BYTES: u64 = 8192;
    let mut text = argument.to_owned();
    if argument == "-" {
        text.clear();
        std::io::stdin()
            .lock()
            .take(MAX_BYTES)
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
    }
    text.trim()
        .parse()
        .map_err(|error: proto::invitation::InvitationError| Failure::Usage(error.to_string()).into())
}

/// Joining again after it worked is no error; joining another mesh is.
fn already_member(global: &Global, state: StateDir, invitation: &Invitation) -> anyhow::Result<ExitCode> {
    let home = Home::load(state)?;
    if home.chain.mesh() != invitation.mesh {
        bail!(
            "{} belongs to a member of the mesh {} already, and the invitation is for {}; nothing was changed. \
             Use another --state and another interface to be in both",
            home.state.path().display(),
            home.chain.current().name,
            invitation.mesh_name
        );
    }
    output::print(&report(global, &home, "is a member already")?)?;
    Ok(ExitCode::SUCCESS)
}

/// The keys of an earlier try with the same invitation, or new ones, which are on the disk before they are shown to
/// anybody.
fn pending(
    state: &StateDir,
    invitation: &Invitation,
    now_s: u64,
    rng: &mut StdRng,
) -> anyhow::Result<PendingJoin> {
    let id = invitation.id().0;
    if let Some(pending) = PendingJoin::load(state)?
        && pending.invitation == id
    {
        return Ok(pending);
    }
    let identity = IdentitySecret::generate(rng);
    let key = TransportKey::generate(rng, &identity, invitation.mesh, FIRST_EPOCH, now_s)?;
    let pending = PendingJoin {
        invitation: id,
        identity: *identity.to_bytes(),
        transport: key.secret,
        epoch: key.epoch.clone(),
    };
    pending.save(state)?;
    Ok(pending)
}

fn report(global: &Global, home: &Home, what: &str) -> anyhow::Result<String> {
    let certificate = home.certificate.body();
    let mesh = &home.chain.current().name;
    let addresses: Vec<IpAddr> = home.certificate.addresses().collect();
    if global.json {
        return output::json_line(&serde_json::json!({
            "mesh": mesh.as_str(),
            "mesh_id": home.chain.mesh().to_string(),
            "node": certificate.name.as_str(),
            "member_id": certificate.member.to_string(),
            "addresses": addresses,
            "state": home.state.path(),
            "config": global.config_path(home.state.path()),
        }));
    }
    let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "{} {what}: mesh {mesh}, addresses {addresses}.\nStart it with: systemctl enable --now meshd   (or: meshd up)\n",
        certificate.name
    ))
}
