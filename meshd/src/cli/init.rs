//! `meshd init`: a new mesh, with this node as its first member.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use meshnet::io::clock;
use meshnet::membership::{AuthoritySecret, is_host_of};
use proto::id::Name;
use rand::rngs::StdRng;

use super::authority::write_sealed;
use super::passphrase::Source;
use super::{Global, parse_name};
use crate::config::write::Choices;
use crate::config::{self, Config, HostPort, Subnet};
use crate::exit::Failure;
use crate::founding::{Founded, Founder};
use crate::state::vault::Content;
use crate::state::{Kind, StateDir, atomic};
use crate::{local, output};

/// Arguments of `meshd init`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Makes the mesh's authority, this node's keys and certificate, and a configuration file.
Nothing that exists is overwritten.

Examples:
  meshd init --mesh home --name first --endpoint first.example.org:4655 --relay
  meshd init --mesh prod --name ams1 --address 10.99.0.1/16 --datacenter ams
  meshd init --mesh prod --name ams1 --recovery-to /media/stick/recovery.age --passphrase-fd 3 3< pass")]
pub(super) struct Args {
    /// The mesh's name: 1 to 63 of a-z, 0-9, and -
    #[arg(long, value_parser = parse_name)]
    mesh: Name,
    /// This node's name
    #[arg(long, value_parser = parse_name)]
    name: Name,
    /// This node's overlay address, with the length of the overlay network [default: .0.1 in a free /16]
    #[arg(long, value_name = "A.B.C.D/LEN")]
    address: Option<String>,
    #[command(flatten)]
    place: Place,
    /// Write the recovery key to this file, encrypted with a passphrase, and not to the state directory
    #[arg(long, value_name = "FILE")]
    recovery_to: Option<PathBuf>,
    #[command(flatten)]
    passphrase: Source,
    /// A network behind this node that the others shall reach through it
    #[arg(long, value_name = "PREFIX", value_parser = config::parse_prefix)]
    subnet: Vec<IpNet>,
}

/// How and where a new node can be reached, for `init` and `join`.
#[derive(clap::Args, Debug, Clone)]
pub(super) struct Place {
    /// UDP address to listen on (default: all addresses of both families, port 4655)
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,
    /// Where others reach this node from outside, if it has a public address or a forwarded port
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Vec<HostPort>,
    /// Forward traffic between nodes that cannot reach each other
    #[arg(long)]
    relay: bool,
    /// The datacentre that this node is in
    #[arg(long, value_name = "DC", value_parser = parse_name)]
    datacenter: Option<Name>,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If there is a mesh already, or something cannot be written.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut rng: StdRng = rand::make_rng();
        let (network, address) = self.overlay(&mut rng)?;
        let path = global.state_path()?;
        let state = StateDir::create(&path)?;
        let _lock = state.lock()?;
        refuse_existing(&state)?;
        let config_path = global.config_path(state.path());
        let choices = self.place.choices(&self.subnet);
        check_config(&config_path, &choices)?;

        let passphrase = match &self.recovery_to {
            Some(_) => Some(self.passphrase.new_one("the recovery key")?),
            None => None,
        };
        let founder = Founder {
            mesh: self.mesh.clone(),
            name: self.name.clone(),
            network,
            address,
            prefixes: self.subnet.clone(),
        };
        let made = founder.found(&state, clock::wall(), &mut rng)?;
        write_config(&config_path, &choices)?;
        if let (Some(file), Some(passphrase)) = (&self.recovery_to, &passphrase) {
            let key = AuthoritySecret::from_bytes(&*state.secret(Kind::Recovery)?);
            write_sealed(file, Content::Recovery, &key, passphrase)?;
            state.remove(Kind::Recovery)?;
        }
        made.complete(&state)?;
        output::print(&self.report(global, &state, network, &made)?)?;
        Ok(ExitCode::SUCCESS)
    }

    fn overlay(&self, rng: &mut StdRng) -> anyhow::Result<(Ipv4Net, std::net::Ipv4Addr)> {
        let taken = local::networks().context("cannot list this machine's networks")?;
        let Some(text) = &self.address else {
            let free = local::free_network(&taken, rng).ok_or_else(|| {
                Failure::Usage(
                    "this machine's networks leave no free network: choose one with --address".into(),
                )
            })?;
            let first = free.hosts().next().context("a /16 has hosts")?;
            return Ok((free, first));
        };
        let usage = |message: String| anyhow::Error::from(Failure::Usage(message));
        let given: IpNet = text.parse().map_err(|_| match text.parse::<IpAddr>() {
            Ok(address) => {
                usage(format!("--address {text}: the network's length is missing: write {address}/16"))
            }
            Err(_) => usage(format!("--address {text}: write for example 10.99.0.1/16")),
        })?;
        let IpNet::V4(given) = given else {
            return Err(usage(format!(
                "--address {text}: give an IPv4 address; every member gets an IPv6 address by itself"
            )));
        };
        let network = given.trunc();
        if !(8..=30).contains(&network.prefix_len()) {
            return Err(usage(format!("--address {text}: the network's length must be from 8 to 30")));
        }
        if !is_host_of(network, given.addr()) {
            let first = network.hosts().next().map(|host| format!(": write {host}/{}", network.prefix_len()));
            return Err(usage(format!("--address {text} is no host's address{}", first.unwrap_or_default())));
        }
        if let Some(other) = taken.iter().find(|other| local::overlap(network, **other)) {
            return Err(usage(format!(
                "--address {text}: {network} overlaps {}, which this machine is in already; choose another network",
                other.trunc()
            )));
        }
        Ok((network, given.addr()))
    }

    fn report(
        &self,
        global: &Global,
        state: &StateDir,
        network: Ipv4Net,
        made: &Founded,
    ) -> anyhow::Result<String> {
        let addresses: Vec<IpAddr> = made.certificate.addresses().collect();
        let recovery = self.recovery_to.clone().unwrap_or_else(|| state.file(Kind::Recovery));
        let keep = match &self.recovery_to {
            Some(_) => "Keep the recovery key, which is encrypted, in a safe place",
            None => "Take the recovery key away: meshd authority export FILE --recovery --remove. It is",
        };
        if global.json {
            return output::json_line(&serde_json::json!({
                "mesh": self.mesh.as_str(),
                "mesh_id": made.chain.mesh().to_string(),
                "node": self.name.as_str(),
                "member_id": made.certificate.body().member.to_string(),
                "network": network,
                "addresses": addresses,
                "state": state.path(),
                "config": global.config_path(state.path()),
                "recovery_key": recovery,
            }));
        }
        let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Ok(format!(
            "Mesh {} ({network}) is made, and this node is its member {} with {addresses}.\n\
             \n\
             Next:\n\
             1. Start it:              systemctl enable --now meshd   (or: meshd up)\n\
             2. Invite another node:   meshd invite NAME\n\
             3. {keep}: {}\n   \
                It replaces the authority if that is lost or stolen. Back up {} as well\n   \
                (meshd authority export FILE; with --remove the authority is offline from then on).\n",
            self.mesh,
            self.name,
            recovery.display(),
            state.file(Kind::Authority).display(),
        ))
    }
}

impl Place {
    /// As the content of a configuration file that announces `subnets`.
    pub(super) fn choices(&self, subnets: &[IpNet]) -> Choices {
        let subnet = |prefix: &IpNet| Subnet { prefix: *prefix, weight: config::DEFAULT_WEIGHT };
        Choices {
            listen: self.listen.clone(),
            endpoints: self.endpoint.clone(),
            datacenter: self.datacenter.as_ref().map(ToString::to_string),
            relay: self.relay,
            subnets: subnets.iter().map(subnet).collect(),
        }
    }
}

/// Nothing of a mesh may be overwritten; what an interrupted `init` left may.
fn refuse_existing(state: &StateDir) -> anyhow::Result<()> {
    let place = state.path().display();
    if state.has(Kind::Pending) {
        bail!(
            "a join has begun in {place}: repeat it, or give it up by moving {} away",
            state.file(Kind::Pending).display()
        );
    }
    if state.has(Kind::Founding) && !state.has(Kind::Certificate) {
        return Ok(());
    }
    let kept = [Kind::Authority, Kind::Recovery, Kind::Identity, Kind::Certificate, Kind::Chain, Kind::Gate];
    if let Some(found) = kept.into_iter().find(|kind| state.has(*kind)) {
        bail!(
            "there is a mesh in {place} already ({} exists); nothing was changed. Use another --state for a new one",
            found.file_name()
        );
    }
    Ok(())
}

/// A configuration file that is there stays, if it is right and nothing on the command line speaks against it.
pub(super) fn check_config(path: &Path, choices: &Choices) -> anyhow::Result<()> {
    if path.symlink_metadata().is_err() {
        return Ok(());
    }
    Config::load(path)?;
    if choices.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{} exists and is not changed: put what --listen, --endpoint, --relay, and --datacenter say into it, and leave \
         them out here",
        path.display()
    );
    Err(Failure::Usage(message).into())
}

/// Writes the configuration file unless it is there.
pub(super) fn write_config(path: &Path, choices: &Choices) -> anyhow::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .context("the configuration file has no usable name")?;
    atomic::replace(directory, name, choices.to_toml().as_bytes(), 0o644)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot write {}", path.display()))
}
