//! The node's state as metrics: the text format of Prometheus (version 0.0.4), by `meshd metrics` and, where it is
//! configured, over HTTP.
//!
//! Names and labels here are kept. Counters begin at 0 with the daemon, and every reason to drop is there from the start,
//! so that the first drop shows in a rate.

pub mod http;

use std::fmt::Write;

use crate::api::view::{PathKind, PathTraffic, Peer, PeerState, Status};

/// Writes everything in `status`, whose drops have all reasons.
pub fn render(status: &Status) -> String {
    let mut page = Page(String::new());
    let node = &status.node;
    page.family("meshd_info", "gauge", "The node and its version.");
    page.sample("meshd_info", &[("node", &node.name), ("mesh", &node.mesh), ("version", &node.version)], 1.0);
    page.single("meshd_uptime_seconds", "gauge", "Since the daemon started.", node.uptime_s as f64);
    page.single(
        "meshd_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the node's certificate ends, in seconds since the Unix epoch.",
        node.certificate_expires_s as f64,
    );
    page.single("meshd_key_epoch", "gauge", "The number of the transport key.", node.key_epoch.into());
    page.single("meshd_warnings", "gauge", "What `meshd status` warns of.", status.warnings.len() as f64);
    page.single(
        "meshd_interface_mtu_bytes",
        "gauge",
        "The overlay device's MTU.",
        status.interface.mtu.into(),
    );
    lanes(&mut page, status);
    page.family("meshd_drops_total", "counter", "Packets and datagrams dropped, by reason.");
    for (reason, count) in &status.drops {
        page.sample("meshd_drops_total", &[("reason", reason)], *count as f64);
    }
    peers(&mut page, &status.peers);
    paths(&mut page, &status.peers);
    page.0
}

fn lanes(page: &mut Page, status: &Status) {
    let Some(first) = status.lanes.each.first() else { return };
    for counter in first.counters.keys() {
        let name = format!("meshd_lane_{counter}_total");
        page.family(
            &name,
            "counter",
            "What the lanes have carried, by the counter of the same name in the status.",
        );
        for (number, lane) in status.lanes.each.iter().enumerate() {
            let count = lane.counters.get(counter).copied().unwrap_or(0);
            page.sample(&name, &[("lane", &number.to_string())], count as f64);
        }
    }
}

/// Name, kind, help, and value of what each peer has.
type PeerFamily = (&'static str, &'static str, &'static str, fn(&Peer) -> Option<f64>);

const PEER_FAMILIES: [PeerFamily; 8] = [
    ("meshd_peer_connected", "gauge", "Whether there is a session and a path.", |peer| {
        Some(f64::from(u8::from(peer.state == PeerState::Connected)))
    }),
    ("meshd_peer_unreachable", "gauge", "Whether no way leads to the peer.", |peer| {
        Some(f64::from(u8::from(peer.state == PeerState::Unreachable)))
    }),
    ("meshd_peer_tx_bytes_total", "counter", "Bytes of packets sent to the peer.", |peer| {
        Some(peer.tx_bytes as f64)
    }),
    ("meshd_peer_rx_bytes_total", "counter", "Bytes of packets received from the peer.", |peer| {
        Some(peer.rx_bytes as f64)
    }),
    ("meshd_peer_rtt_seconds", "gauge", "Smoothed round trip on the path in use.", |peer| {
        Some(peer.path.as_ref()?.rtt_ms? / 1e3)
    }),
    ("meshd_peer_loss_ratio", "gauge", "Share of probes lost lately on the path in use.", |peer| {
        Some(peer.path.as_ref()?.loss)
    }),
    ("meshd_peer_mtu_bytes", "gauge", "The longest packet that the path in use carries.", |peer| {
        Some(peer.path.as_ref()?.mtu.into())
    }),
    ("meshd_peer_handshake_age_seconds", "gauge", "Since the last handshake.", |peer| {
        Some(peer.last_handshake_s? as f64)
    }),
];

fn peers(page: &mut Page, peers: &[Peer]) {
    for (name, kind, help, value) in PEER_FAMILIES {
        page.family(name, kind, help);
        for peer in peers {
            if let Some(value) = value(peer) {
                page.sample(name, &[("peer", &peer.name)], value);
            }
        }
    }
}

/// What a family of samples takes from a path.
type OfPath = fn(&PathTraffic) -> u64;

fn paths(page: &mut Page, peers: &[Peer]) {
    let families: [(&str, &str, OfPath); 2] = [
        ("meshd_path_tx_bytes_total", "Bytes of packets sent on a path.", |path| path.tx_bytes),
        ("meshd_path_rx_bytes_total", "Bytes of packets received on a path.", |path| path.rx_bytes),
    ];
    for (name, help, bytes) in families {
        page.family(name, "counter", help);
        for peer in peers {
            for path in &peer.paths {
                let remote = path.remote.map(|remote| remote.to_string()).unwrap_or_default();
                let kind = match path.kind {
                    PathKind::Direct => "direct",
                    PathKind::Relay => "relay",
                    PathKind::Tcp => "tcp",
                };
                let via = path.via.join(",");
                let labels = [("peer", &*peer.name), ("kind", kind), ("remote", &*remote), ("via", &*via)];
                page.sample(name, &labels, bytes(path) as f64);
            }
        }
    }
}

/// A page of the text format.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(value));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// As the format wants label values.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        serde_json::from_value(serde_json::json!({
            "node": { "name": "a", "member_id": "", "addresses": [], "datacenter": null, "version": "0.1.0",
                "mesh": "lab", "mesh_id": "", "relay": false, "listen": [], "endpoints": [], "subnets": [],
                "uptime_s": 7, "certificate_expires_s": 1_795_378_330_u64, "key_epoch": 3 },
            "interface": { "name": "mesh0", "mtu": 1354 },
            "lanes": { "count": 2, "receivers": 2, "reason": "", "total": lane(30), "each": [lane(10), lane(20)] },
            "peers": [{ "name": "b\"\\\n", "member_id": "", "addresses": [], "datacenter": null, "relay": false,
                "state": "connected", "path": { "kind": "direct", "remote": "192.0.2.2:4655", "via": [],
                "rtt_ms": 1.5, "loss": 0.25, "mtu": 1354, "suite": "" }, "rx_bytes": 20, "tx_bytes": 10,
                "last_handshake_s": 5, "key_epoch": 1, "version": null, "subnets": [], "paths": [
                { "kind": "direct", "remote": "192.0.2.2:4655", "via": [], "tx_bytes": 9, "rx_bytes": 20 },
                { "kind": "relay", "remote": null, "via": ["r"], "tx_bytes": 1, "rx_bytes": 0 }] }],
            "warnings": ["w"], "drops": { "tx_no_route": 0, "rx_replayed": 4 }
        }))
        .unwrap()
    }

    fn lane(count: u64) -> serde_json::Value {
        serde_json::json!({ "tx_packets": count, "tx_batches": 5, "tx_batch_packets": 2.0,
            "rx_batch_datagrams": 0.0, "tx_super_share": 0.5, "rx_super_share": 0.0 })
    }

    #[test]
    fn the_format_is_this_text() {
        let text = render(&status());
        for line in [
            "# TYPE meshd_drops_total counter",
            "meshd_info{node=\"a\",mesh=\"lab\",version=\"0.1.0\"} 1",
            "meshd_uptime_seconds 7",
            "meshd_certificate_expiry_timestamp_seconds 1795378330",
            "meshd_lane_tx_packets_total{lane=\"1\"} 20",
            "meshd_drops_total{reason=\"tx_no_route\"} 0",
            "meshd_drops_total{reason=\"rx_replayed\"} 4",
            "meshd_peer_rtt_seconds{peer=\"b\\\"\\\\\\n\"} 0.0015",
            "meshd_path_tx_bytes_total{peer=\"b\\\"\\\\\\n\",kind=\"relay\",remote=\"\",via=\"r\"} 1",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}\n{text}");
        }
    }

    #[test]
    fn every_sample_belongs_to_the_family_above_it_and_each_family_is_there_once() {
        let text = render(&status());
        assert!(text.ends_with('\n'));
        let (mut family, mut families) = (String::new(), std::collections::BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                assert!(families.insert(name.to_owned()), "{name} twice");
                family = name.to_owned();
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, family);
                line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
            }
        }
        assert!(families.len() > 15);
    }
}
