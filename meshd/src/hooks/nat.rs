//! Hiding packets of other members behind this machine's address on their way to the internet, by nft(8): in a table of the
//! daemon's own, which is made anew at the start, whatever a daemon that was killed has left.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What is translated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Nat {
    /// Whose packets: the networks of members' addresses.
    pub members: Vec<IpNet>,
    /// Not on the way to these: this node's own subnets.
    pub untouched: Vec<IpNet>,
}

/// What is no internet (`meshnet::dataplane::packet::is_internet` has it the other way round).
const NOT_INTERNET: &str = "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, \
                            192.168.0.0/16, 224.0.0.0-255.255.255.255";

impl Nat {
    /// For nft: makes the table, in the place of an older one.
    pub fn begin(&self, interface: &str) -> String {
        let table = table(interface);
        let mut rules = String::new();
        for prefix in &self.untouched {
            rules += &format!("{} daddr {prefix} accept; ", family(prefix));
        }
        for network in &self.members {
            let family = family(network);
            let internet = match network {
                IpNet::V4(_) => format!("!= {{ {NOT_INTERNET} }}"),
                IpNet::V6(_) => "2000::/3".to_owned(),
            };
            rules += &format!(
                "iifname \"{interface}\" oifname != \"{interface}\" {family} saddr {network} {family} daddr {internet} masquerade; "
            );
        }
        format!(
            "add table inet {table}; delete table inet {table}; table inet {table} {{ chain out {{ \
             type nat hook postrouting priority 100; policy accept; {rules}}}; }}"
        )
    }

    /// For nft: takes the table away.
    pub fn end(&self, interface: &str) -> String {
        let table = table(interface);
        format!("add table inet {table}; delete table inet {table}")
    }
}

/// One for each device, so that several meshes on a machine do not meet.
fn table(interface: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("meshd_{}", interface.chars().map(plain).collect::<String>())
}

fn family(prefix: &IpNet) -> &'static str {
    match prefix {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat() -> Nat {
        let net = |text: &str| text.parse().unwrap();
        Nat {
            members: vec![net("10.99.0.0/16"), net("fd01:2:3::/64")],
            untouched: vec![net("192.168.7.0/24"), net("2001:db8:7::/48")],
        }
    }

    #[test]
    fn the_script_names_the_device_the_members_and_what_stays_as_it_is() {
        let script = nat().begin("mesh-0.1");
        for part in [
            "table inet meshd_mesh_0_1 {",
            "ip daddr 192.168.7.0/24 accept;",
            "iifname \"mesh-0.1\" oifname != \"mesh-0.1\" ip saddr 10.99.0.0/16 ip daddr != {",
            "ip6 saddr fd01:2:3::/64 ip6 daddr 2000::/3 masquerade;",
        ] {
            assert!(script.contains(part), "{part} in {script}");
        }
        assert!(nat().end("mesh0").ends_with("delete table inet meshd_mesh0"));
    }
}
