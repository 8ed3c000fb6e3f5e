//! `meshd invite`: one line that makes another machine a member.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use ipnet::IpNet;
use meshnet::io::clock;
use meshnet::membership::{
    IdentitySecret, Membership, is_host_of, member_id, member_network6, next_free_address,
};
use meshnet::session::join::JoinKeys;
use meshnet::time::Now;
use proto::certificate::Roles;
use proto::id::{IdentityKey, Name};
use proto::invitation::{HostPort, Invitation as Url, MAX_ENDPOINTS, StreamEndpoint, key_hash};
use rand::Rng;
use rand::rngs::StdRng;

use super::{Global, expect_answer, parse_name};
use crate::api::Request;
use crate::api::client::{self, Client};
use crate::config::{self, Config};
use crate::exit::Failure;
use crate::join::server::{self, SignError};
use crate::local;
use crate::output::{self, units};
use crate::state::invitations::{Invitation, Limits, Psk, Register};
use crate::state::{Home, Kind, StateDir};

/// Longest validity of an invitation: it is a secret that lies about.
const MAX_TTL_S: u64 = 30 * 24 * 3600;

/// Least that an issuer's certificates may last, in seconds: renewing takes its time.
const MIN_LIFETIME_S: u32 = 24 * 3600;

/// Arguments of `meshd invite`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Prints one line on standard output, to be given to `meshd join` on the new machine.
It is a secret, works once, and ends by itself.

Examples:
  meshd invite second
  ssh second meshd join \"$(meshd invite second)\"
  meshd invite gateway --subnet 192.168.7.0/24 --role relay --ttl 1h
  meshd invite cellar-home --role issuer --may-name=-home --may-give 10.99.8.0/24 --may-last 30d")]
pub(super) struct Args {
    /// The new node's name: 1 to 63 of a-z, 0-9, and -
    #[arg(value_parser = parse_name)]
    name: Name,
    /// Its overlay address [default: the next free one]
    #[arg(long, value_name = "ADDRESS[/LEN]")]
    address: Vec<String>,
    /// A network behind it that it may announce
    #[arg(long, value_name = "PREFIX", value_parser = config::parse_prefix)]
    subnet: Vec<IpNet>,
    /// What it may do beside taking part
    #[arg(long, value_enum)]
    role: Vec<Role>,
    /// With --role issuer: it certifies only names that end so
    #[arg(long, value_name = "SUFFIX", requires = "role")]
    may_name: Option<String>,
    /// With --role issuer: it certifies only addresses and subnets within this prefix; may be repeated
    #[arg(long, value_name = "PREFIX", value_parser = config::parse_prefix, requires = "role")]
    may_give: Vec<IpNet>,
    /// With --role issuer: it certifies for so long at most
    #[arg(long, value_name = "SPAN", value_parser = units::parse_span, requires = "role")]
    may_last: Option<u64>,
    /// How long the invitation is good, for example 30m, 24h, or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = units::parse_span)]
    ttl: u64,
    /// Withdraw an unused invitation for the same name and make a new one
    #[arg(long)]
    replace: bool,
}

/// What a member may do beside taking part.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Forward traffic between others
    Relay,
    /// Let others in, and renew certificates
    Issuer,
    /// Give orders to other nodes
    Operator,
    /// Take traffic of others to the internet
    Exit,
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// If this node may not invite, the name or address is taken, or something cannot be written.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        if self.ttl > MAX_TTL_S {
            return Err(Failure::Usage("--ttl: an invitation may last 30 days at most".into()).into());
        }
        let limits = self.limits()?;
        let mut rng: StdRng = rand::make_rng();
        let now = clock::now();
        let state = StateDir::open(&global.state_path()?)?;
        let home = Home::load(state.clone())?;
        let (endpoints, streams) = endpoints(global, &state)?;
        let membership = home.membership(now.wall)?;
        if membership.revocations().has_member(home.certificate.body().member) {
            return Err(Failure::NotPermitted(
                "this node was revoked: nobody lets in whom it invites".into(),
            )
            .into());
        }
        let register = Register::open(&state)?;
        let locked = register.lock()?;
        let (all, damaged) = register.all()?;
        for error in damaged {
            eprintln!("meshd: warning: {error}");
        }
        let now_s = now.wall.seconds();
        let (replaced, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|old| self.replace && old.redeemed.is_none() && old.name == self.name.as_str());
        let taken = Taken { now, home: &home, membership: &membership, invitations: &others };
        taken.check_name(&self.name)?;
        let addresses = match self.address.as_slice() {
            [] => vec![taken.next_address(&replaced)?],
            given => given.iter().map(|text| taken.check_address(text)).collect::<anyhow::Result<_>>()?,
        };

        let mut secret = zeroize::Zeroizing::new([0; 16]);
        rng.fill_bytes(secret.as_mut());
        let keys = JoinKeys::of_secret(&secret);
        let roles = self.role.iter().fold(Roles::default(), |roles, role| roles.union(role.bits()));
        let invitation = Invitation {
            id: keys.invitation.0,
            psk: Psk(*keys.psk.bytes()),
            name: self.name.to_string(),
            addresses,
            prefixes: self.subnet.clone(),
            roles: roles.0,
            limits,
            created_s: now_s,
            expires_s: now_s + self.ttl,
            redeemed: None,
        };
        rehearse(now, &home, &membership, &invitation, &mut rng)?;
        for old in &replaced {
            locked.withdraw(old.id)?;
        }
        locked.prune(now_s)?;
        locked.put(&invitation)?;

        let certificate = home.certificate.body();
        let url = Url {
            mesh_name: home.chain.current().name.clone(),
            mesh: home.chain.mesh(),
            inviter: certificate.member,
            key_hash: key_hash(&certificate.identity),
            secret: *secret,
            expires_s: invitation.expires_s,
            endpoints,
            streams,
        };
        output::print(&self.report(global, &url, &invitation)?)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What the new member may certify.
    fn limits(&self) -> anyhow::Result<Limits> {
        let usage = |message: &str| anyhow::Error::from(Failure::Usage(message.into()));
        let limited = self.may_name.is_some() || !self.may_give.is_empty() || self.may_last.is_some();
        if limited && !self.role.contains(&Role::Issuer) {
            return Err(usage("--may-name, --may-give, and --may-last go with --role issuer"));
        }
        let names = self.may_name.clone().unwrap_or_default();
        if names.len() > Name::MAX_LEN
            || !names.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        {
            return Err(usage("--may-name: the end of a name has a-z, 0-9, and - only, for example -home"));
        }
        let lifetime_s = self.may_last.map(|span| u32::try_from(span).unwrap_or(u32::MAX));
        if lifetime_s.is_some_and(|span| span < MIN_LIFETIME_S) {
            return Err(usage("--may-last: certificates have to last for a day at least"));
        }
        Ok(Limits { names, prefixes: self.may_give.clone(), lifetime_s })
    }

    fn report(&self, global: &Global, url: &Url, invitation: &Invitation) -> anyhow::Result<String> {
        if global.json {
            return output::json_line(&serde_json::json!({
                "url": url.to_string(),
                "name": invitation.name,
                "addresses": invitation.addresses,
                "expires_s": invitation.expires_s,
                "endpoints": url.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }));
        }
        let addresses = invitation.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        eprintln!(
            "meshd: {} will be {addresses}; the line below works once, within {}",
            self.name,
            units::span(self.ttl)
        );
        Ok(format!("{url}\n"))
    }
}

impl Role {
    fn bits(self) -> Roles {
        match self {
            Role::Relay => Roles::RELAY,
            Role::Issuer => Roles::ISSUER,
            Role::Operator => Roles::OPERATOR,
            Role::Exit => Roles::EXIT,
        }
    }
}

/// Names and addresses that cannot be given again.
struct Taken<'a> {
    now: Now,
    home: &'a Home,
    membership: &'a Membership,
    invitations: &'a [Invitation],
}

impl Taken<'_> {
    fn check_name(&self, name: &Name) -> anyhow::Result<()> {
        if let Some(holder) = self.membership.with_name(self.now.wall, name) {
            bail!("the name {name} is taken by {}", self.describe_member(holder));
        }
        match self.promised().find(|other| other.name == name.as_str()) {
            Some(other) => bail!("the name {name} is taken by {}", self.describe_invitation(other)),
            None => Ok(()),
        }
    }

    fn check_address(&self, text: &str) -> anyhow::Result<IpAddr> {
        let usage = |message: String| anyhow::Error::from(Failure::Usage(message));
        let network = self.network()?;
        let (bare, len) = text.split_once('/').map_or((text, None), |(bare, len)| (bare, Some(len)));
        let wrong = || {
            usage(format!(
                "--address {text}: write an address of {network}, for example {}",
                example(network)
            ))
        };
        let IpAddr::V4(address) = bare.parse::<IpAddr>().map_err(|_| wrong())? else {
            let derived = member_network6(self.home.chain.mesh());
            return Err(usage(format!(
                "--address {text}: every member gets an IPv6 address of {derived} by itself"
            )));
        };
        if len.is_some_and(|len| len != network.prefix_len().to_string() && len != "32") {
            return Err(usage(format!("--address {text}: the mesh's network is {network}")));
        }
        if !is_host_of(network, address) {
            return Err(wrong());
        }
        let address = IpAddr::V4(address);
        if let Some(holder) = self.membership.owner(self.now.wall, &address) {
            bail!("the address {address} is taken by {}", self.describe_member(holder));
        }
        match self.promised().find(|other| other.addresses.contains(&address)) {
            Some(other) => bail!("the address {address} is taken by {}", self.describe_invitation(other)),
            None => Ok(address),
        }
    }

    /// The lowest free address; that of an invitation which is replaced comes first.
    fn next_address(&self, replaced: &[Invitation]) -> anyhow::Result<IpAddr> {
        if let Some(address) = replaced.first().and_then(|old| old.addresses.first()) {
            return Ok(*address);
        }
        let network = self.network()?;
        let v4 = |address: IpAddr| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        };
        let mut used: BTreeSet<Ipv4Addr> = self.membership.certified_addresses().filter_map(v4).collect();
        used.extend(self.promised().flat_map(|other| other.addresses.iter().copied()).filter_map(v4));
        let pools = self.pools(network)?;
        let free = pools.iter().find_map(|pool| next_free_address(*pool, &used));
        free.map(IpAddr::V4).with_context(|| {
            let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
            format!("all addresses of {} are taken", pools.join(", "))
        })
    }

    /// Where this node may give addresses: everywhere with the authority's key, within its limits as an issuer.
    fn pools(&self, network: ipnet::Ipv4Net) -> anyhow::Result<Vec<ipnet::Ipv4Net>> {
        let limits = self.home.certificate.body().constraints.as_deref();
        let within = limits.filter(|limits| !limits.prefixes.is_empty());
        let Some(limits) = within.filter(|_| !self.home.state.has(Kind::Authority)) else {
            return Ok(vec![network]);
        };
        let v4 = limits.prefixes.iter().filter_map(|prefix| match prefix {
            ipnet::IpNet::V4(prefix) => Some(*prefix),
            ipnet::IpNet::V6(_) => None,
        });
        let pools: Vec<_> = v4.filter(|prefix| network.contains(prefix)).collect();
        if pools.is_empty() {
            bail!("this issuer's limits have no addresses of the mesh's network {network}");
        }
        Ok(pools)
    }

    fn network(&self) -> anyhow::Result<ipnet::Ipv4Net> {
        self.home.chain.current().network4.context("this mesh has no IPv4 network")
    }

    /// Invitations that may still be used, or were by somebody who was not revoked since.
    fn promised(&self) -> impl Iterator<Item = &Invitation> {
        let now_s = self.now.wall.seconds();
        self.invitations.iter().filter(move |other| match &other.redeemed {
            Some(used) => !self.membership.revocations().has_member(member_id(&IdentityKey(used.identity))),
            None => other.expires_s > now_s,
        })
    }

    fn describe_member(&self, member: proto::id::MemberId) -> String {
        let Some(known) = self.membership.get(member) else { return format!("member {member}") };
        let addresses: Vec<String> =
            known.certificate().addresses().map(|address| address.to_string()).collect();
        let own = if member == self.home.certificate.body().member { "this node, " } else { "member " };
        format!("{own}{} ({})", known.name(), addresses.join(", "))
    }

    fn describe_invitation(&self, other: &Invitation) -> String {
        let addresses = other.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match &other.redeemed {
            Some(_) => format!("{} ({addresses}), which joined by an earlier invitation", other.name),
            None => format!(
                "an open invitation for {} ({addresses}), good for another {}; `meshd invite {} --replace` withdraws it",
                other.name,
                units::span(other.expires_s.saturating_sub(self.now.wall.seconds())),
                other.name
            ),
        }
    }
}

/// Issues the certificate for a key that is thrown away: what the members would refuse is told now, and not to the
/// joiner.
fn rehearse(
    now: Now,
    home: &Home,
    membership: &Membership,
    invitation: &Invitation,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let nobody = IdentitySecret::generate(rng).public();
    let request = server::request(invitation, nobody).context("the name cannot be certified")?;
    match server::sign(now, home, request, rng) {
        Ok(_) => Ok(()),
        Err(SignError::NotAnIssuer) => {
            let issuers: Vec<String> = membership
                .iter()
                .filter(|(_, member)| member.certificate().body().roles.contains(Roles::ISSUER))
                .map(|(_, member)| member.name().to_string())
                .collect();
            let elsewhere = match issuers.as_slice() {
                [] => String::new(),
                names => format!("do it on {}, or ", names.join(" or ")),
            };
            Err(Failure::NotPermitted(format!(
                "this node may not invite: it has neither the authority's key nor the role of an issuer: \
                 {elsewhere}do it where that key is (where `meshd init` was run, if nobody moved it), or bring it \
                 here (meshd authority import FILE)"
            ))
            .into())
        }
        Err(SignError::Issue(error)) => {
            Err(Failure::Usage(format!("this cannot be certified: {error}")).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Where the joiner can ask: what the daemon knows, or else what the configuration and the interfaces say.
fn endpoints(global: &Global, state: &StateDir) -> anyhow::Result<(Vec<HostPort>, Vec<StreamEndpoint>)> {
    let config = Config::load_or_default(&global.config_path(state.path()))?;
    let (known, tcp, tls) = match Client::connect(&state.socket()) {
        Ok(mut client) => {
            client.set_patience(Duration::from_secs(3));
            expect_answer!(client, Request::Reachability, Reachability { endpoints, tcp, tls } => (endpoints, tcp, tls))?
        }
        Err(client::Error::NotRunning(_)) => Default::default(),
        Err(error) => return Err(error.into()),
    };
    let streams = streams(&config, &tcp, &tls);
    let configured = config.endpoints.iter().map(ToString::to_string);
    let addresses = local::reachable_addresses().unwrap_or_default();
    let own = match known.is_empty() {
        true => listening(&config, &addresses),
        false => Vec::new(),
    };
    let mut endpoints: Vec<HostPort> = Vec::new();
    for text in configured.chain(known).chain(own) {
        let Ok(endpoint) = text.parse::<HostPort>() else { continue };
        if endpoints.len() < MAX_ENDPOINTS && !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    if endpoints.is_empty() {
        bail!(
            "nothing is known at which the new node could reach this one: write `endpoints = [\"HOST:PORT\"]` into {}",
            global.config_path(state.path()).display()
        );
    }
    Ok((endpoints, streams))
}

/// Where the joiner can ask by TCP: what the daemon knows, and its own listeners at the host names that are configured. In
/// turn one with TLS and one without.
fn streams(config: &Config, tcp: &[String], tls: &[String]) -> Vec<StreamEndpoint> {
    let named = |listen: &[std::net::SocketAddr]| -> Vec<String> {
        let names = config.endpoints.iter().filter(|endpoint| endpoint.host.parse::<IpAddr>().is_err());
        let port = listen.first().map(std::net::SocketAddr::port);
        names.filter_map(|endpoint| Some(format!("{}:{}", endpoint.host, port?))).collect()
    };
    let list = |tls: bool, known: &[String], listen: &[std::net::SocketAddr]| -> Vec<StreamEndpoint> {
        let all = named(listen).into_iter().chain(known.iter().cloned());
        all.filter_map(|text| Some(StreamEndpoint { tls, endpoint: text.parse().ok()? })).collect()
    };
    let (with, without) =
        (list(true, tls, &config.streams.listen_tls), list(false, tcp, &config.streams.listen_tcp));
    let mut streams: Vec<StreamEndpoint> = Vec::new();
    for at in 0..with.len().max(without.len()) {
        for stream in [with.get(at), without.get(at)].into_iter().flatten() {
            if streams.len() < MAX_ENDPOINTS && !streams.contains(stream) {
                streams.push(stream.clone());
            }
        }
    }
    streams
}

/// The sockets that the daemon will have, as seen from outside.
fn listening(config: &Config, addresses: &[IpAddr]) -> Vec<String> {
    let mut endpoints = Vec::new();
    for listen in &config.listen {
        let serves = |address: &&IpAddr| match listen.ip() {
            IpAddr::V6(any) if any.is_unspecified() => true,
            IpAddr::V4(any) if any.is_unspecified() => address.is_ipv4(),
            one => **address == one,
        };
        let served = addresses.iter().filter(serves);
        endpoints
            .extend(served.map(|address| std::net::SocketAddr::new(*address, listen.port()).to_string()));
    }
    endpoints
}

fn example(network: ipnet::Ipv4Net) -> String {
    network.hosts().nth(1).map(|host| host.to_string()).unwrap_or_default()
}
