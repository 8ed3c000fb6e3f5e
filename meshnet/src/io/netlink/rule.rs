//! Policy rules (ip-rule(8)): which packets look into which routing table.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::IpVersion;
use rtnetlink::packet_route::route::{RouteHeader, RouteProtocol};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{MAIN_TABLE, Netlink, NetlinkError, PROTOCOL, family_of};

/// Priority of the first of our rules unless configured: behind the local table (0), before the main one (32766) and what
/// people usually add before that (32765 down).
pub const DEFAULT_PRIORITY: u32 = 5200;
/// Priorities from the first one on that are ours.
pub const PRIORITIES: u32 = 8;

/// A rule: packets that match look into a table, and go on to the next rule if that has no route for them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// For IPv4; else for IPv6.
    pub is_v4: bool,
    /// Lower ones come first.
    pub priority: u32,
    /// Which packets.
    pub matches: Match,
    /// The routing table.
    pub table: u32,
    /// Default routes in the table do not count.
    pub no_default: bool,
}

/// Which packets a rule is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Match {
    /// All.
    All,
    /// Those of sockets with this mark (`SO_MARK`).
    Mark(u32),
    /// All but those.
    NotMark(u32),
    /// Those from this address.
    From(IpAddr),
}

/// What [`Netlink::set_rules`] did.
#[derive(Debug, Default)]
pub struct RuleReport {
    /// Rules added.
    pub added: usize,
    /// Rules removed.
    pub removed: usize,
    /// What the kernel did not take, and why.
    pub refused: Vec<(Rule, NetlinkError)>,
}

/// How our rules are told from others': by the protocol number, and by one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OurRules<'a> {
    /// The first of our [`PRIORITIES`].
    pub priority: u32,
    /// Tables that no other mesh on this machine uses.
    pub tables: &'a [u32],
}

impl Netlink {
    /// Makes `wanted` the set of our rules: adds what is missing, and then removes what is too much, also what a daemon left
    /// that was killed.
    ///
    /// # Errors
    /// When the rules cannot be listed. A rule that cannot be set is in the report.
    pub async fn set_rules(
        &self,
        ours: OurRules<'_>,
        wanted: &BTreeSet<Rule>,
    ) -> Result<RuleReport, NetlinkError> {
        let mut report = RuleReport::default();
        let (mut present, mut foreign) = (BTreeSet::new(), Vec::new());
        for is_v4 in [true, false] {
            for message in self.rules_marked_as_ours(is_v4).await? {
                let rule = Rule::read(&message);
                let is_wanted = rule.is_some_and(|rule| wanted.contains(&rule) && present.insert(rule));
                if !is_wanted && is_ours(&message, ours) {
                    foreign.push(message);
                }
            }
        }
        for rule in wanted.difference(&present) {
            let mut request = self.handle.rule().add();
            *request.message_mut() = rule.message();
            match request.execute().await {
                Ok(()) => report.added += 1,
                Err(error) => report.refused.push((*rule, NetlinkError::new("add a routing rule", error))),
            }
        }
        for message in foreign {
            match self.handle.rule().del(message).execute().await {
                Ok(()) => report.removed += 1,
                Err(error) => match NetlinkError::new("remove a routing rule", error) {
                    error if error.errno() == Some(Errno::ENOENT) => {}
                    error => return Err(error),
                },
            }
        }
        Ok(report)
    }

    async fn rules_marked_as_ours(&self, is_v4: bool) -> Result<Vec<RuleMessage>, NetlinkError> {
        let version = if is_v4 { IpVersion::V4 } else { IpVersion::V6 };
        let mut rules = Vec::new();
        let mut stream = std::pin::pin!(self.handle.rule().get(version).execute());
        loop {
            match stream.try_next().await {
                Ok(Some(message)) => {
                    let protocol = RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
                    if message.attributes.contains(&protocol) {
                        rules.push(message);
                    }
                }
                Ok(None) => return Ok(rules),
                Err(error) => match NetlinkError::new("list routing rules", error) {
                    // A kernel without that family, or without rules.
                    error if matches!(error.errno(), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {
                        return Ok(rules);
                    }
                    error => return Err(error),
                },
            }
        }
    }
}

fn is_ours(message: &RuleMessage, ours: OurRules<'_>) -> bool {
    let (mut priority, mut table) = (0, u32::from(message.header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    (ours.priority..ours.priority + PRIORITIES).contains(&priority) || ours.tables.contains(&table)
}

impl Rule {
    /// `None` if it is none that could be of ours.
    fn read(message: &RuleMessage) -> Option<Rule> {
        let (mut priority, mut table) = (0, u32::from(message.header.table));
        let (mut mark, mut from, mut no_default) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(number) => priority = *number,
                RuleAttribute::Table(number) => table = *number,
                RuleAttribute::FwMark(number) => mark = Some(*number),
                RuleAttribute::FwMask(mask) if *mask != u32::MAX => return None,
                RuleAttribute::Source(address) => from = Some(*address),
                RuleAttribute::SuppressPrefixLen(0) => no_default = true,
                RuleAttribute::Iifname(_) | RuleAttribute::Oifname(_) | RuleAttribute::Destination(_) => {
                    return None;
                }
                _ => {}
            }
        }
        let inverted = message.header.flags.contains(RuleFlags::Invert);
        let matches = match (mark, from) {
            (None, None) if !inverted => Match::All,
            (Some(mark), None) if inverted => Match::NotMark(mark),
            (Some(mark), None) => Match::Mark(mark),
            (None, Some(from)) if !inverted => Match::From(from),
            _ => return None,
        };
        let is_v4 = message.header.family == family_of(true);
        Some(Rule { is_v4, priority, matches, table, no_default })
    }

    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family_of(self.is_v4);
        message.header.action = RuleAction::ToTable;
        let in_header = u8::try_from(self.table).ok();
        message.header.table = in_header.unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        let attributes = &mut message.attributes;
        attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        attributes.push(RuleAttribute::Priority(self.priority));
        attributes.push(RuleAttribute::Table(self.table));
        match self.matches {
            Match::All => {}
            Match::Mark(mark) | Match::NotMark(mark) => attributes.push(RuleAttribute::FwMark(mark)),
            Match::From(address) => {
                message.header.src_len = if address.is_ipv4() { 32 } else { 128 };
                attributes.push(RuleAttribute::Source(address));
            }
        }
        if self.no_default {
            attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        if matches!(self.matches, Match::NotMark(_)) {
            message.header.flags = RuleFlags::Invert;
        }
        message
    }
}

/// The rules that lead packets into an own table and, where there is a default route through the overlay, into that.
///
/// * `own`: the table of the overlay's routes, if it is not the main one: all but the underlay's own packets look there.
/// * `exit`: the table of the default route through the overlay. What goes there does not have our `mark`, is not from one
///   of the machine's own addresses on the `underlay` (answers to who asks from outside, and sockets bound to it: so the
///   kernel's check of return paths also passes), and has no better route than a default one.
pub fn rules(
    priority: u32,
    mark: u32,
    own: Option<u32>,
    exit: Option<u32>,
    underlay: &[IpAddr],
) -> BTreeSet<Rule> {
    let mut rules = BTreeSet::new();
    for is_v4 in [true, false] {
        let rule = |at: u32, matches: Match, table: u32| Rule {
            is_v4,
            priority: priority + at,
            matches,
            table,
            no_default: false,
        };
        if let Some(table) = own {
            let matches = if mark == 0 { Match::All } else { Match::NotMark(mark) };
            rules.insert(rule(0, matches, table));
        }
        let Some(table) = exit else { continue };
        rules.insert(rule(1, Match::Mark(mark), MAIN_TABLE));
        for address in underlay.iter().filter(|address| address.is_ipv4() == is_v4) {
            rules.insert(rule(2, Match::From(*address), MAIN_TABLE));
        }
        rules.insert(Rule { no_default: true, ..rule(3, Match::All, MAIN_TABLE) });
        rules.insert(rule(4, Match::All, table));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_interface;
    use super::*;
    use crate::io::testing::{ip, ip_says};

    const OURS: OurRules<'_> = OurRules { priority: DEFAULT_PRIORITY, tables: &[7000, 70_000] };

    #[test]
    fn rules_become_exactly_the_wanted_ones_and_others_stay() {
        with_interface(|netlink, _| async move {
            ip("rule add priority 100 lookup 7000");
            ip("rule add priority 5201 lookup 9000 protocol 50");
            let underlay = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
            let wanted = rules(DEFAULT_PRIORITY, 0x6d65, Some(7000), Some(70_000), &underlay);
            let report = netlink.set_rules(OURS, &wanted).await.unwrap();
            assert_eq!((report.added, report.removed, report.refused.len()), (10, 0, 0), "{report:?}");
            let again = netlink.set_rules(OURS, &wanted).await.unwrap();
            assert_eq!((again.added, again.removed), (0, 0), "{again:?}");
            let shown = ip_says("rule show");
            for line in [
                "5200:\tnot from all fwmark 0x6d65 lookup 7000",
                "5201:\tfrom all fwmark 0x6d65 lookup main",
                "5202:\tfrom 192.0.2.1 lookup main",
                "5203:\tfrom all lookup main suppress_prefixlength 0",
                "5204:\tfrom all lookup 70000",
            ] {
                assert!(shown.contains(line), "{line} in {shown}");
            }
            assert!(ip_says("-6 rule show").contains("from 2001:db8::1 lookup main"));
            let fewer = rules(DEFAULT_PRIORITY, 0x6d65, None, Some(70_000), &underlay[..1]);
            let report = netlink.set_rules(OURS, &fewer).await.unwrap();
            assert_eq!((report.added, report.removed), (0, 3), "{report:?}");
            let report = netlink.set_rules(OURS, &BTreeSet::new()).await.unwrap();
            assert_eq!((report.added, report.removed), (0, 7), "{report:?}");
            let shown = ip_says("rule show");
            assert!(shown.contains("100:") && shown.contains("lookup 9000"), "others' rules stay: {shown}");
        });
    }

    #[test]
    fn leftovers_go_also_from_another_priority_and_those_of_another_mesh_stay() {
        with_interface(|netlink, _| async move {
            ip("rule add priority 6000 lookup 7000 protocol 109");
            ip("rule add priority 5202 lookup 8000 protocol 109");
            ip("rule add priority 6400 lookup 9000 protocol 109");
            let report = netlink.set_rules(OURS, &BTreeSet::new()).await.unwrap();
            assert_eq!(report.removed, 2);
            assert!(ip_says("rule show").contains("lookup 9000"), "another mesh's");
        });
    }

    #[test]
    fn marked_and_bound_packets_keep_the_underlays_default_route_and_others_take_the_overlays() {
        with_interface(|netlink, _| async move {
            crate::io::testing::add_interface("lan0");
            ip("link set lan0 up");
            ip("link set net0 up");
            ip("addr add 192.0.2.1/24 dev lan0");
            ip("addr add 10.99.0.1/16 dev net0");
            ip("route add default via 192.0.2.254");
            ip("route add default dev net0 table 70000");
            let underlay = ["192.0.2.1".parse().unwrap()];
            let wanted = rules(DEFAULT_PRIORITY, 0x6d65, None, Some(70_000), &underlay);
            netlink.set_rules(OURS, &wanted).await.unwrap();
            let way = |to: &str| ip_says(&format!("route get {to}"));
            assert!(way("203.0.113.9").contains("dev net0"), "{}", way("203.0.113.9"));
            assert!(way("203.0.113.9 mark 0x6d65").contains("dev lan0"));
            assert!(way("203.0.113.9 from 192.0.2.1").contains("dev lan0"));
            assert!(way("192.0.2.77").contains("dev lan0"), "the LAN stays");
            assert!(way("10.99.3.3").contains("dev net0"));
        });
    }
}
