//! Overlay addresses: the IPv6 address that every member has by derivation, and choosing free IPv4 addresses.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use blake2::{Blake2s256, Digest};
use ipnet::{Ipv4Net, Ipv6Net};
use proto::id::{MemberId, MeshId};

/// The mesh's unique local IPv6 network, a /48 (RFC 4193): `fd`, then 40 bits of a hash of the mesh id in place of random
/// ones, so that all members derive the same and two meshes hardly ever do.
pub fn mesh_network6(mesh: MeshId) -> Ipv6Net {
    let hash = hash(b"meshnet ula", &mesh.0);
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 48)
}

/// The subnet of [`mesh_network6`] that holds the members' derived addresses: subnet id 0, a /64.
pub fn member_network6(mesh: MeshId) -> Ipv6Net {
    Ipv6Net::new_assert(mesh_network6(mesh).network(), 64)
}

/// A member's derived IPv6 address: [`member_network6`] and 64 bits of a hash of the member id.
pub fn member_address6(mesh: MeshId, member: MemberId) -> Ipv6Addr {
    let mut octets = member_network6(mesh).network().octets();
    octets[8..].copy_from_slice(&hash(b"meshnet iid", &member.0)[..8]);
    Ipv6Addr::from(octets)
}

/// Whether `address` can be a member's address within `network`: inside, and neither its first address nor its last,
/// which are the network's own name and its broadcast address (both are usable in a /31 and a /32, RFC 3021).
pub fn is_host_of(network: Ipv4Net, address: Ipv4Addr) -> bool {
    let edge = address == network.network() || address == network.broadcast();
    network.contains(&address) && (network.prefix_len() > 30 || !edge)
}

/// The lowest address in `network` that a member can have and that is not `used`, or `None` where all are.
///
/// Takes time in the number of used addresses, whatever the size of the network.
pub fn next_free_address(network: Ipv4Net, used: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let mut candidate = match network.prefix_len() {
        31 | 32 => network.network(),
        _ => Ipv4Addr::from(u32::from(network.network()) + 1),
    };
    for taken in used.range(candidate..) {
        if *taken != candidate {
            break;
        }
        candidate = Ipv4Addr::from(u32::from(candidate).checked_add(1)?);
    }
    is_host_of(network, candidate).then_some(candidate)
}

fn hash(label: &[u8], id: &[u8]) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(id).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn derived_addresses_do_not_change_between_versions() {
        // Computed apart, with Python's hashlib.
        let mesh = MeshId([7; 16]);
        assert_eq!(mesh_network6(mesh).to_string(), "fd00:3a6b:dd43::/48");
        assert_eq!(
            member_address6(mesh, MemberId([9; 16])).to_string(),
            "fd00:3a6b:dd43:0:5d12:af58:7a69:c598"
        );
    }

    #[test]
    fn members_share_the_first_subnet_and_meshes_share_nothing() {
        let (a, b) = (MeshId([1; 16]), MeshId([2; 16]));
        let member = MemberId([3; 16]);
        assert!(mesh_network6(a).contains(&member_network6(a)));
        assert!(member_network6(a).contains(&member_address6(a, member)));
        assert_ne!(mesh_network6(a), mesh_network6(b));
        assert_ne!(member_address6(a, member), member_address6(a, MemberId([4; 16])));
    }

    #[test]
    fn small_networks_run_out() {
        let free = |network: &str, used: &[&str]| {
            let used = used.iter().map(|address| address.parse().unwrap()).collect();
            next_free_address(network.parse().unwrap(), &used).map(|address| address.to_string())
        };
        assert_eq!(free("10.0.0.0/30", &[]).as_deref(), Some("10.0.0.1"));
        assert_eq!(free("10.0.0.0/30", &["10.0.0.1"]).as_deref(), Some("10.0.0.2"));
        assert_eq!(free("10.0.0.0/30", &["10.0.0.2"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(free("10.0.0.0/30", &["10.0.0.1", "10.0.0.2"]), None);
        assert_eq!(free("10.0.0.4/31", &["10.0.0.4"]).as_deref(), Some("10.0.0.5"));
        assert_eq!(free("10.0.0.4/32", &["10.0.0.4"]), None);
        assert_eq!(free("255.255.255.254/31", &["255.255.255.254", "255.255.255.255"]), None);
        assert_eq!(free("10.99.0.0/16", &["10.98.0.1", "10.99.0.0"]).as_deref(), Some("10.99.0.1"));
    }

    proptest! {
        #[test]
        fn the_lowest_free_host_is_found(
            len in 24u8..=32,
            low in 0u32..256,
            used in proptest::collection::btree_set(0u32..256, 0..256),
        ) {
            let at = |low: u32| Ipv4Addr::from(0x0a63_0000 | low);
            let network = Ipv4Net::new(at(low), len).unwrap().trunc();
            let used: BTreeSet<_> = used.into_iter().map(at).collect();
            let naive = (0..256).map(at).find(|a| is_host_of(network, *a) && !used.contains(a));
            prop_assert_eq!(next_free_address(network, &used), naive);
        }
    }
}
