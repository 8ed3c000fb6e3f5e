//! Capabilities (capabilities(7)) of the calling thread, and of those that it starts.

use caps::{CapSet, Capability, CapsHashSet};

use super::Needs;

/// What the daemon's own threads need: device, addresses, routes, and marks on sockets; ports.
pub fn of_daemon(needs: &Needs) -> CapsHashSet {
    let mut wanted = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    if needs.low_ports {
        wanted.insert(Capability::CAP_NET_BIND_SERVICE);
    }
    wanted
}

/// What the agent's thread needs: containers' data belongs to their users, and `/proc` shows other users' processes only
/// to who may trace them.
pub fn of_agent(_needs: &Needs) -> CapsHashSet {
    CapsHashSet::from([Capability::CAP_DAC_OVERRIDE, Capability::CAP_SYS_PTRACE])
}

/// Gives up all capabilities but `wanted`, for good. What the thread did not have it does not get.
///
/// # Errors
/// What the system says.
pub fn keep(wanted: &CapsHashSet) -> Result<String, String> {
    let failed = |what: &'static str| move |error: caps::errors::CapsError| format!("{what}: {error}");
    let had = caps::read(None, CapSet::Permitted).map_err(failed("reading them"))?;
    let kept: CapsHashSet = had.intersection(wanted).copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(failed("the ambient set"))?;
    if had.contains(&Capability::CAP_SETPCAP) {
        // What a program that is run could get at most; without new privileges it gets none anyway.
        for capability in caps::read(None, CapSet::Bounding).map_err(failed("the bounding set"))? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(failed("the bounding set"))?;
            }
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(failed("the inheritable set"))?;
    caps::set(None, CapSet::Effective, &kept).map_err(failed("the effective set"))?;
    caps::set(None, CapSet::Permitted, &kept).map_err(failed("the permitted set"))?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(if names.is_empty() { "none".into() } else { names.join(" ") })
}
