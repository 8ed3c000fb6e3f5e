//! What happened, as the commands in `[hooks]` are told.

use ipnet::IpNet;
use meshnet::membership::Membership;
use meshnet::path::PathId;
use proto::id::Name;

use crate::hooks::Happened;
use crate::hooks::job::{NameText, PathKind};

/// To a member.
pub(super) fn member(name: &Name) -> Happened {
    Happened { node: Some(NameText(name.clone())), ..Happened::default() }
}

/// To a subnet of a member.
pub(super) fn subnet(name: &Name, prefix: IpNet, weight: u16) -> Happened {
    Happened { subnet: Some(prefix), weight: Some(weight), ..member(name) }
}

/// To the path to a member.
pub(super) fn path(
    membership: &Membership,
    name: &Name,
    path: Option<PathId>,
    before: Option<PathId>,
) -> Happened {
    let (mut remote, mut via) = (None, None);
    match path {
        Some(PathId::Direct { remote: to, .. }) => remote = Some(to),
        Some(PathId::Relay { relay }) => {
            via = membership.get(relay).map(|relay| NameText(relay.name().clone()));
        }
        None => {}
    }
    Happened { remote, via, path: path.map(kind), before: before.map(kind), ..member(name) }
}

fn kind(path: PathId) -> PathKind {
    match path {
        PathId::Relay { .. } => PathKind::Relay,
        PathId::Direct { .. } if path.is_stream() => PathKind::Tcp,
        PathId::Direct { .. } => PathKind::Direct,
    }
}
