//! Network address translators, as the kinds that matter for reaching a node behind one (RFC 4787, section 4
//! and 5, with the names of RFC 3489).

use crate::fault::Port;
use crate::{Error, Lab, Machine, Switch, tool};

/// How a NAT maps and filters UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// One outside port for an inside socket whatever it talks to (as long as no other inside socket has the same
    /// port number and destination); lets in only whom the inside has sent to. What a Linux router does.
    PortRestricted,
    /// One outside port for an inside socket; lets in every port of an address that the inside has sent to.
    Restricted,
    /// Another outside port for each destination, the last one and two more; lets in only that destination.
    Counting,
    /// Another outside port, drawn at random, for each destination; lets in only that destination.
    Symmetric,
    /// One outside port for an inside socket; anyone may send to it.
    FullCone,
}

/// A router that translates between an inside and an outside network.
#[derive(Clone, Debug)]
pub struct Nat {
    /// The router itself.
    pub machine: Machine,
    /// Its port on the outside.
    pub outside: Port,
    /// Its port on the inside.
    pub inside: Port,
}

impl Lab {
    /// A NAT router with a port on each of two switches; addresses as `ADDRESS/LENGTH`, IPv4.
    ///
    /// # Errors
    /// As [`Lab::machine`], or a failed command.
    pub fn nat(
        &self,
        name: &str,
        kind: NatKind,
        inside: (&Switch, &str),
        outside: (&Switch, &str),
    ) -> Result<Nat, Error> {
        let machine = self.router(name)?;
        let outside_plug = outside.1;
        let outside = machine.plug(outside.0, &[outside_plug])?;
        let inside = machine.plug(inside.0, &[inside.1])?;
        let address = outside_address(outside_plug);
        machine.nft(&rules(kind, outside.interface(), address))?;
        Ok(Nat { machine, outside, inside })
    }
}

impl Nat {
    /// Gives all mappings up and takes outside ports from `ports` on (`50000-50010`): what a restart of the router
    /// looks like from both sides. `address` is its outside address.
    ///
    /// # Errors
    /// [`Error::MissingTool`] for `conntrack`, or a failed command.
    pub fn rebind(&self, address: &str, ports: &str) -> Result<(), Error> {
        let interface = self.outside.interface();
        let source = format!(
            "flush chain ip nat post\nadd rule ip nat post oifname \"{interface}\" meta l4proto udp snat to \
             {address}:{ports}\nadd rule ip nat post oifname \"{interface}\" masquerade\n"
        );
        self.machine.nft(&source)?;
        self.machine.enter(|| tool::run("conntrack", &["-F"], None))?.map(drop)
    }

    /// How long an unused UDP mapping lives: `fresh_s` until the first answer, `stream_s` after it.
    ///
    /// # Errors
    /// [`Error::File`] when the kernel has no connection tracking.
    pub fn set_udp_timeout(&self, fresh_s: u32, stream_s: u32) -> Result<(), Error> {
        self.machine.sysctl("net.netfilter.nf_conntrack_udp_timeout", &fresh_s.to_string())?;
        self.machine.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", &stream_s.to_string())
    }
}

fn outside_address(plug: &str) -> &str {
    plug.split('/').next().unwrap_or(plug)
}

/// Ports of a translator that counts: so many, from this one on, each two above the last.
const COUNTED: std::ops::Range<u32> = 0..400;
const COUNTED_FROM: u32 = 40_000;

fn rules(kind: NatKind, outside: &str, address: &str) -> String {
    let translate = match kind {
        NatKind::PortRestricted => format!("oifname \"{outside}\" masquerade"),
        NatKind::Symmetric => {
            format!(
                "oifname \"{outside}\" meta l4proto udp masquerade fully-random\noifname \"{outside}\" masquerade"
            )
        }
        NatKind::Counting => {
            let ports: Vec<String> =
                COUNTED.map(|number| format!("{number} : {}", COUNTED_FROM + 2 * number)).collect();
            format!(
                "oifname \"{outside}\" meta l4proto udp snat ip to {address} : numgen inc mod {} map {{ {} }}\n\
                 oifname \"{outside}\" masquerade",
                COUNTED.end,
                ports.join(", ")
            )
        }
        NatKind::FullCone | NatKind::Restricted => format!(
            "oifname \"{outside}\" meta l4proto udp update @mapped {{ udp sport : ip saddr . udp sport }} masquerade\n\
             oifname \"{outside}\" masquerade"
        ),
    };
    let (map, back) = match kind {
        NatKind::FullCone => (
            "map mapped { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }",
            format!("iifname \"{outside}\" meta l4proto udp dnat ip to udp dport map @mapped"),
        ),
        NatKind::Restricted => (
            "map mapped { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }\n\
             set talked { type ipv4_addr . inet_service; flags dynamic,timeout; timeout 120s; }",
            format!(
                "iifname \"{outside}\" meta l4proto udp ip saddr . udp dport @talked dnat ip to udp dport map @mapped"
            ),
        ),
        NatKind::PortRestricted | NatKind::Symmetric | NatKind::Counting => ("", String::new()),
    };
    // Each datagram that leaves counts: the chains above see only the first of each conversation. The inside's port is the
    // outside's.
    let track = match kind {
        NatKind::Restricted => format!(
            "chain track {{ type filter hook forward priority mangle; oifname \"{outside}\" meta l4proto udp update \
             @talked {{ ip daddr . udp sport }}\n}}\n"
        ),
        _ => String::new(),
    };
    // The input drop keeps the router from making a connection entry out of a stranger's packet, which would take the
    // port number that the inside's own packet wants a moment later.
    format!(
        "table ip nat {{\n{map}\n\
         {track}\
         chain pre {{ type nat hook prerouting priority dstnat; {back}\n}}\n\
         chain post {{ type nat hook postrouting priority srcnat; {translate}\n}}\n}}\n\
         table ip filter {{\n\
         chain in {{ type filter hook input priority filter; iifname \"{outside}\" meta l4proto udp drop; }}\n\
         chain through {{ type filter hook forward priority filter; \
         ct status dnat accept; iifname \"{outside}\" ct state new drop; }}\n}}\n"
    )
}
