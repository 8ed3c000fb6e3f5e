//! The judgement of what was written: every key in turn, all that is wrong with it as findings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use meshnet::dataplane::RelayLimit;
use meshnet::io::tun::Wish;
use meshnet::node::PostQuantum;
use proto::lane::QUEUES_MAX;
use toml::Spanned;

use super::diagnose::{Findings, example};
use super::raw::{Raw, RawMtu, RawSubnet};
use super::values::{bounded, choice, integer, parse_prefix};
use super::{
    Config, DEFAULT_PORT, DEFAULT_WEIGHT, HostPort, HostPortError, LanesWish, Level, MAX_ENDPOINTS,
    MAX_LISTEN, MAX_SUBNETS, Mtu, SHORTEST_ROTATE_EVERY_S, Subnet, SuiteWish, exit, hooks, is_interface_name,
    is_name, peers, streams,
};
use crate::output::units;
use crate::sandbox::Mode;

/// The configuration that `raw` means. Of what is wrong it has the default.
pub(super) fn resolve(mut raw: Raw, findings: &mut Findings<'_>) -> Config {
    let defaults = Config::default();
    let mut config = Config {
        state: raw.state.take().map(Spanned::into_inner),
        streams: streams::resolve(&mut raw, findings),
        relay: raw.relay.take().is_some_and(Spanned::into_inner),
        lan_discovery: raw.lan_discovery.take().is_none_or(Spanned::into_inner),
        port_mapping: choice(
            "port_mapping",
            raw.port_mapping.take(),
            &[("auto", true), ("off", false)],
            findings,
        )
        .unwrap_or(defaults.port_mapping),
        ..defaults
    };
    device(&mut raw, &mut config, findings);
    packets(&mut raw, &mut config, findings);
    addresses(&mut raw, &mut config, findings);
    exit::resolve(&mut raw, &mut config, findings);
    config.subnets = subnets(raw.subnets.take().unwrap_or_default(), findings);
    config.peers = peers::resolve(raw.peer.take().unwrap_or_default(), findings);
    config.hooks = hooks::resolve(raw.hooks.take().unwrap_or_default(), findings);
    daemon(&mut raw, &mut config, findings);
    config
}

/// The network device, and the routes through it.
fn device(raw: &mut Raw, config: &mut Config, findings: &mut Findings<'_>) {
    if let Some(interface) = raw.interface.take() {
        let (span, name) = (interface.span(), interface.into_inner());
        if !is_interface_name(&name) {
            let message = format!(
                "`{name}` is no name for a network device: 1 to 15 characters without spaces, `/` and `:`"
            );
            findings.add(span, message, example("interface"));
        }
        config.interface = name;
    }
    match raw.mtu.take().map(|mtu| (mtu.span(), mtu.into_inner())) {
        None => {}
        Some((_, RawMtu::Word(word))) if word == "auto" => config.mtu = Mtu::Auto,
        Some((span, RawMtu::Word(word))) => {
            findings.add(span, format!("`{word}` is no choice for `mtu`"), example("mtu"));
        }
        Some((span, RawMtu::Bytes(bytes))) => {
            // Below 1280 there is no IPv6 (RFC 8200, section 5).
            let bytes = integer("mtu", Some(Spanned::new(span, bytes)), 1280..=65_535, findings);
            config.mtu = bytes.map_or(config.mtu, |bytes| Mtu::Fixed(bytes as u16));
        }
    }
    if let Some(mark) = integer("fwmark", raw.fwmark.take(), 0..=i64::from(u32::MAX), findings) {
        config.fwmark = mark as u32;
    }
    if let Some(table) = integer("route_table", raw.route_table.take(), 1..=i64::from(u32::MAX), findings) {
        config.route_table = Some(table as u32);
    }
}

/// How packets are carried, and with which keys.
fn packets(raw: &mut Raw, config: &mut Config, findings: &mut Findings<'_>) {
    let offloads = [("auto", Wish::Auto), ("off", Wish::Off)];
    config.offload = choice("offload", raw.offload.take(), &offloads, findings).unwrap_or(config.offload);
    let suites = [("auto", SuiteWish::Auto), ("chacha20poly1305", SuiteWish::ChaCha20Poly1305)];
    config.suite = choice("suite", raw.suite.take(), &suites, findings).unwrap_or(config.suite);
    let hybrids =
        [("off", PostQuantum::Off), ("prefer", PostQuantum::Prefer), ("require", PostQuantum::Require)];
    config.pq = choice("pq", raw.pq.take(), &hybrids, findings).unwrap_or(config.pq);
    let copies = [("copy", true), ("off", false)];
    config.copy_tos = choice("tos", raw.tos.take(), &copies, findings).unwrap_or(config.copy_tos);
    if let Some(lanes) = raw.lanes.take() {
        match lanes.get_ref() {
            toml::Value::String(word) if word == "auto" => {}
            toml::Value::Integer(count) if (1..=i64::from(QUEUES_MAX)).contains(count) => {
                config.lanes = LanesWish::Fixed(*count as u8);
            }
            other => findings.add(
                lanes.span(),
                format!("{other} is no choice for `lanes`"),
                Some(format!("write \"auto\" or a number from 1 to {QUEUES_MAX}")),
            ),
        }
    }
    if let Some(limit) = raw.relay_limit.take() {
        match relay_limit(limit.get_ref()) {
            Ok(limit) => config.relay_limit = limit,
            Err(message) => findings.add(limit.span(), message, example("relay_limit")),
        }
    }
    if let Some(capacity) = raw.relay_capacity.take() {
        match relay_limit(capacity.get_ref()) {
            Ok(rate) => config.relay_capacity = rate.map(|rate| rate.bytes_per_s),
            Err(message) => findings.add(capacity.span(), message, example("relay_capacity")),
        }
    }
    let Some(every) = raw.rotate_every.take() else { return };
    match every.get_ref().as_str() {
        "off" => config.rotate_every = None,
        text => match units::parse_span(text) {
            Ok(span) if span >= SHORTEST_ROTATE_EVERY_S => config.rotate_every = Some(span),
            Ok(_) => findings.add(
                every.span(),
                format!("`rotate_every` is {text}, but must be 10m or more"),
                example("rotate_every"),
            ),
            Err(_) => findings.add(
                every.span(),
                format!("`{text}` is no span of time"),
                Some("write for example \"7d\" or \"12h\", or \"off\"".into()),
            ),
        },
    }
}

/// Where the node is.
fn addresses(raw: &mut Raw, config: &mut Config, findings: &mut Findings<'_>) {
    if let Some(written) = raw.listen.take() {
        config.listen = listen(written, findings);
    }
    config.endpoints = endpoints(raw.endpoints.take().unwrap_or_default(), findings);
    let Some(datacenter) = raw.datacenter.take() else { return };
    if is_name(datacenter.get_ref()) {
        config.datacenter = Some(datacenter.into_inner());
    } else {
        let message = format!("`{}` is no name: use 1 to 63 of a-z, 0-9 and `-`", datacenter.get_ref());
        findings.add(datacenter.span(), message, example("datacenter"));
    }
}

/// The daemon on its machine.
fn daemon(raw: &mut Raw, config: &mut Config, findings: &mut Findings<'_>) {
    if let Some(metrics) = raw.metrics.take() {
        match metrics.get_ref().parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => config.metrics = Some(address),
            _ => {
                let message = format!("`{}` is no address with a port", metrics.get_ref());
                findings.add(metrics.span(), message, example("metrics"));
            }
        }
    }
    if let Some(engine) = raw.engine.take() {
        let path = engine.get_ref().strip_prefix("unix://").unwrap_or(engine.get_ref());
        if path.starts_with('/') {
            config.engine = Some(path.into());
        } else {
            let message = format!("`{}` is no local socket", engine.get_ref());
            findings.add(engine.span(), message, example("engine"));
        }
    }
    let modes = Mode::ALL.map(|(mode, name)| (name, mode));
    config.sandbox = choice("sandbox", raw.sandbox.take(), &modes, findings).unwrap_or(config.sandbox);
    let levels = Level::ALL.map(|(level, name)| (name, level));
    config.log = choice("log", raw.log.take(), &levels, findings).unwrap_or(config.log);
}

/// A rate in bits a second with a unit, or `off`. The burst is what the rate carries in a tenth of a second, but enough
/// for some segmented sends.
fn relay_limit(text: &str) -> Result<Option<RelayLimit>, String> {
    const BURST_MIN_BYTES: u64 = 256 * 1024;
    if text == "off" {
        return Ok(None);
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => {
            return Err(format!(
                "`{text}` is no rate: use a number and `kbit`, `mbit`, or `gbit`, or \"off\""
            ));
        }
    };
    let bits =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).filter(|bits| *bits >= 8000);
    let Some(bits) = bits else {
        return Err(format!("`{text}` is no rate from 8kbit to 1000gbit and the like"));
    };
    let bytes_per_s = bits / 8;
    Ok(Some(RelayLimit { bytes_per_s, burst_bytes: (bytes_per_s / 10).max(BURST_MIN_BYTES) }))
}

fn listen(listen: Vec<Spanned<String>>, findings: &mut Findings<'_>) -> Vec<SocketAddr> {
    let mut resolved: Vec<SocketAddr> = Vec::new();
    if listen.is_empty() {
        findings.add(0..0, "`listen` is empty", example("listen"));
    }
    for item in &listen {
        match item.get_ref().parse::<SocketAddr>() {
            Ok(address) if resolved.contains(&address) => {
                findings.add(item.span(), format!("{address} is in `listen` twice"), None);
            }
            Ok(address) => resolved.push(address),
            Err(_) => {
                let message = format!("`{}` is not ADDRESS:PORT", item.get_ref());
                findings.add(item.span(), message, Some(listen_hint(item.get_ref())));
            }
        }
    }
    bounded("listen", &listen, MAX_LISTEN, findings);
    // `[::]` listens on IPv4 too, so that 0.0.0.0 beside it would find its port in use.
    let both: Vec<u16> = resolved
        .iter()
        .filter(|address| address.ip() == Ipv6Addr::UNSPECIFIED)
        .map(SocketAddr::port)
        .collect();
    resolved.retain(|address| address.ip() != Ipv4Addr::UNSPECIFIED || !both.contains(&address.port()));
    resolved
}

fn listen_hint(text: &str) -> String {
    if let Ok(address) = text.parse::<IpAddr>() {
        return format!("write \"{}\"", SocketAddr::new(address, DEFAULT_PORT));
    }
    match text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        Ok(port) => format!("write \"[::]:{port}\" for all addresses of the machine"),
        Err(_) => format!("write for example \"[::]:{DEFAULT_PORT}\""),
    }
}

fn endpoints(endpoints: Vec<Spanned<String>>, findings: &mut Findings<'_>) -> Vec<HostPort> {
    let mut resolved: Vec<HostPort> = Vec::new();
    for item in &endpoints {
        match item.get_ref().parse::<HostPort>() {
            Ok(endpoint) if resolved.contains(&endpoint) => {
                findings.add(item.span(), format!("{endpoint} is in `endpoints` twice"), None);
            }
            Ok(endpoint) => resolved.push(endpoint),
            Err(HostPortError::NoPort) => {
                let host = item.get_ref();
                let host = if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.clone() };
                let message = format!("`{}`: {}", item.get_ref(), HostPortError::NoPort);
                findings.add(item.span(), message, Some(format!("write \"{host}:{DEFAULT_PORT}\"")));
            }
            Err(error) => {
                findings.add(item.span(), format!("`{}`: {error}", item.get_ref()), example("endpoints"))
            }
        }
    }
    bounded("endpoints", &endpoints, MAX_ENDPOINTS, findings);
    resolved
}

fn subnets(written: Vec<RawSubnet>, findings: &mut Findings<'_>) -> Vec<Subnet> {
    let mut resolved: Vec<Subnet> = Vec::new();
    if let Some(over) = written.get(MAX_SUBNETS) {
        findings.add(over.prefix.span(), format!("`subnets` has more than {MAX_SUBNETS} items"), None);
    }
    for subnet in written {
        let weight = integer("weight", subnet.weight, 0..=i64::from(u16::MAX), findings)
            .map_or(DEFAULT_WEIGHT, |weight| weight as u16);
        match parse_prefix(subnet.prefix.get_ref()) {
            Ok(prefix) if prefix.prefix_len() == 0 => {
                let message = format!("{prefix} is the whole internet, which is no subnet");
                findings.add(subnet.prefix.span(), message, Some("write `exit = true`".into()));
            }
            Ok(prefix) if resolved.iter().any(|other| other.prefix == prefix) => {
                findings.add(subnet.prefix.span(), format!("{prefix} is in `subnets` twice"), None);
            }
            Ok(prefix) => resolved.push(Subnet { prefix, weight }),
            Err(instead) => {
                let message = format!("`{}` is not a network prefix", subnet.prefix.get_ref());
                findings.add(subnet.prefix.span(), message, Some(instead));
            }
        }
    }
    resolved
}
