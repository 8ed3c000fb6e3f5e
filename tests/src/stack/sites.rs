//! Five nodes with engines in three datacentres behind NATs, and two public relays between them.

use super::{Cluster, Node};
use crate::net::{MESH, done, meshd};
use netlab::mesh::Member;
use netlab::{Lab, NatKind, Port};
use std::collections::BTreeMap;

/// The datacentres: name, nodes.
pub const SITES: [(&str, &[&str]); 3] =
    [("ams", &["ams1", "ams2"]), ("fra", &["fra1", "fra2"]), ("par", &["par1"])];

/// A cluster over three datacentres. No two of them reach each other but through a relay.
pub struct Sites {
    /// The nodes; `ams1` and `par1` are operators.
    pub cluster: Cluster,
    /// The public relays `r1`, which founded the mesh, and `r2`.
    pub relays: Vec<Member>,
    /// What joins each datacentre to the internet.
    pub uplinks: BTreeMap<&'static str, Port>,
}

impl Sites {
    /// Builds networks, mesh, and engines.
    ///
    /// # Panics
    /// When a node, a daemon, or an engine does not start.
    pub fn new(images: &[&str]) -> Sites {
        let lab = done(Lab::new());
        let internet = done(lab.switch("internet"));
        let relay = |name: &str, address: &str| {
            let machine = done(lab.machine(name));
            done(machine.plug(&internet, &[&format!("{address}/24")]));
            (Member::new(&machine, &meshd()), format!("{address}:4655"))
        };
        let (mut r1, at) = relay("r1", "203.0.113.11");
        let place = ["--relay", "--endpoint", &at, "--datacenter", "ams"];
        done(r1.ok(&[&["init", "--mesh", MESH, "--name", "r1"], &place[..]].concat()));
        done(r1.up());
        let (mut r2, at) = relay("r2", "203.0.113.12");
        let url = done(r1.invite("r2", &["--role", "relay"]));
        done(r2.ok(&["join", &url, "--relay", "--endpoint", &at, "--datacenter", "fra"]));
        done(r2.up());

        let (mut nodes, mut uplinks) = (Vec::new(), BTreeMap::new());
        for (number, (site, names)) in (1..).zip(SITES) {
            let inside = done(lab.switch(site));
            let gateway = format!("10.{number}.0.254");
            let outside = format!("203.0.113.{number}/24");
            let nat = lab.nat(
                &format!("nat-{site}"),
                NatKind::Symmetric,
                (&inside, &format!("{gateway}/24")),
                (&internet, &outside),
            );
            uplinks.insert(site, done(nat).outside);
            for (index, name) in (1..).zip(names) {
                let machine = done(lab.machine(name));
                let port = done(machine.plug(&inside, &[&format!("10.{number}.0.{index}/24")]));
                done(machine.default_route(&gateway));
                let member = Member::new(&machine, &meshd());
                let role: &[&str] =
                    if ["ams1", "par1"].contains(name) { &["--role", "operator"] } else { &[] };
                let url = done(r1.invite(name, role));
                done(member.ok(&["join", &url, "--datacenter", site]));
                nodes.push(Node::start(name, member, port));
            }
        }
        load(&nodes, images);
        Sites { cluster: Cluster::of(nodes, lab), relays: vec![r1, r2], uplinks }
    }

    /// The power of a node fails: its daemon, its engine, and all its containers are gone at once.
    ///
    /// # Panics
    /// When its processes cannot be listed.
    pub fn power_off(&mut self, name: &str) {
        let node = self.cluster.node_mut(name);
        node.member.kill();
        done(node.engine.kill());
    }

    /// The power comes back: daemon and engine are started, as a system does; nobody gives a command.
    ///
    /// # Panics
    /// When one of them does not start.
    pub fn power_on(&mut self, name: &str) {
        let node = self.cluster.node_mut(name);
        done(node.member.up());
        done(node.engine.start());
    }
}

fn load(nodes: &[Node], images: &[&str]) {
    // Two at a time: each load writes hundreds of megabytes.
    for pair in nodes.chunks(2) {
        std::thread::scope(|scope| {
            for node in pair {
                scope.spawn(|| images.iter().for_each(|image| node.load(image)));
            }
        });
    }
}
