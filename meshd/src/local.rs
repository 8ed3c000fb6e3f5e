//! The machine's own addresses, as far as the command line needs them; the daemon watches them through netlink.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use nix::net::if_::InterfaceFlags;
use rand::RngExt;

/// The networks that the machine's interfaces are in, with the interfaces' addresses as host parts.
///
/// # Errors
/// What the system says.
pub fn networks() -> std::io::Result<Vec<IpNet>> {
    let mut networks = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let address = interface.address.as_ref().and_then(ip_of);
        let mask = interface.netmask.as_ref().and_then(ip_of);
        let (Some(address), Some(mask)) = (address, mask) else { continue };
        if !interface.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        networks.extend(IpNet::with_netmask(address, mask));
    }
    Ok(networks)
}

/// The addresses at which others might reach the machine: of interfaces that are up, neither loopback nor link-local.
///
/// # Errors
/// What the system says.
pub fn reachable_addresses() -> std::io::Result<Vec<IpAddr>> {
    let addresses = networks()?.into_iter().map(|network| network.addr());
    Ok(addresses.filter(is_reachable).collect())
}

/// A /16 for a new mesh that none of `taken` overlaps: private space that home routers and container engines rarely
/// use by default comes first.
pub fn free_network(taken: &[IpNet], rng: &mut impl rand::Rng) -> Option<Ipv4Net> {
    let shared = |second: u8| Ipv4Net::new_assert(Ipv4Addr::new(100, second, 0, 0), 16);
    let private = |second: u8| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16);
    let free = |network: &Ipv4Net| !taken.iter().any(|other| overlap(*network, *other));
    // A random choice, so that two meshes that meet one day rarely have the same one. 10.0 to 10.31 are crowded.
    let start: u8 = rng.random_range(0..=u8::MAX);
    let round = |span: u8, first: u8| (0..span).map(move |step| first + start.wrapping_add(step) % span);
    round(224, 32).map(private).find(free).or_else(|| round(64, 64).map(shared).find(free))
}

/// Whether two networks have addresses in common.
pub fn overlap(network: Ipv4Net, other: IpNet) -> bool {
    match other {
        IpNet::V4(other) => network.contains(&other.network()) || other.contains(&network.network()),
        IpNet::V6(_) => false,
    }
}

fn is_reachable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn loopback_is_a_network_of_this_machine_but_not_reachable() {
        // Build machines have at least that, unless their namespace has not even brought it up.
        let addresses = reachable_addresses().unwrap();
        assert!(!addresses.iter().any(IpAddr::is_loopback));
    }

    #[test]
    fn where_ten_is_taken_shared_space_is_used() {
        let mut rng = StdRng::seed_from_u64(1);
        let network = free_network(&["10.3.4.5/8".parse().unwrap()], &mut rng).unwrap();
        assert_eq!(network.network().octets()[0], 100);
        let all = ["10.0.0.0/8".parse().unwrap(), "100.64.0.0/10".parse().unwrap()];
        assert_eq!(free_network(&all, &mut rng), None);
    }

    proptest! {
        #[test]
        fn the_network_is_free(seed: u64, taken in proptest::collection::vec((any::<u32>(), 8u8..=32), 0..20)) {
            let taken: Vec<IpNet> = taken
                .into_iter()
                .map(|(bits, len)| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(bits), len)))
                .collect();
            if let Some(network) = free_network(&taken, &mut StdRng::seed_from_u64(seed)) {
                prop_assert!(taken.iter().all(|other| !overlap(network, *other)));
                prop_assert_eq!(network.trunc(), network);
            }
        }
    }
}
