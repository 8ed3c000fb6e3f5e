use super::*;
use proptest::prelude::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn offer(owner: u32, weight: u16, way: Way) -> Offer<u32> {
    Offer { owner, weight, way, salt: mix(u64::from(owner)) }
}

/// The owner for any flow, where it is one.
fn only(fib: &Fib<u32>, destination: &str) -> Option<u32> {
    fib.lookup(&ip(destination), || panic!("nobody shares {destination}"))
}

#[test]
fn the_longest_prefix_wins_over_weight() {
    let mut builder = FibBuilder::new();
    builder.add_subnet(net("10.0.0.0/8"), offer(1, 0, Way::Known));
    builder.add_subnet(net("10.1.0.0/16"), offer(2, 9, Way::Possible));
    builder.add_address(ip("10.1.0.1"), 3);
    let fib = builder.build();
    assert_eq!(only(&fib, "10.2.0.1"), Some(1));
    assert_eq!(only(&fib, "10.1.0.2"), Some(2));
    assert_eq!(only(&fib, "10.1.0.1"), Some(3));
    assert_eq!(only(&fib, "11.0.0.1"), None);
    assert_eq!(only(&fib, "::ffff:10.2.0.1"), None, "a mapped address is no IPv4 address");
}

#[test]
fn among_owners_of_one_prefix_reachable_then_weight_then_a_known_way_decides_and_equals_share() {
    let owners = |offers: &[Offer<u32>]| {
        let mut builder = FibBuilder::new();
        offers.iter().for_each(|offer| builder.add_subnet(net("fd00::/64"), *offer));
        builder.build().owners(&ip("fd00::1"))
    };
    assert_eq!(owners(&[offer(1, 0, Way::None), offer(2, 7, Way::Known)]), [2]);
    assert_eq!(owners(&[offer(1, 5, Way::Known), offer(2, 4, Way::Possible)]), [2]);
    assert_eq!(owners(&[offer(1, 5, Way::Possible), offer(2, 5, Way::Known)]), [2]);
    assert_eq!(owners(&[offer(2, 5, Way::Known), offer(1, 5, Way::Known)]), [2, 1]);
    assert_eq!(owners(&[offer(1, 5, Way::Possible), offer(2, 5, Way::Possible)]), [1, 2]);
    assert_eq!(owners(&[offer(1, 5, Way::None)]), [] as [u32; 0]);
    let many: Vec<_> = (0..MAX_SHARES as u32 + 3).map(|owner| offer(owner, 1, Way::Known)).collect();
    assert_eq!(owners(&many).len(), MAX_SHARES);
}

#[test]
fn flows_are_shared_evenly_and_when_an_owner_goes_only_its_own_move() {
    let table = |owners: &[u32]| {
        let mut builder = FibBuilder::new();
        owners.iter().for_each(|owner| builder.add_subnet(net("10.1.0.0/16"), offer(*owner, 5, Way::Known)));
        builder.build()
    };
    let (three, two) = (table(&[1, 2, 3]), table(&[3, 1]));
    let mut counts = [0u32; 4];
    for flow in 0..6000u64 {
        let lookup = |fib: &Fib<u32>| fib.lookup(&ip("10.1.2.3"), || mix(flow)).unwrap();
        let before = lookup(&three);
        counts[before as usize] += 1;
        assert_eq!(lookup(&three), before, "a flow keeps its owner");
        let after = lookup(&two);
        assert!(if before == 2 { after != 2 } else { after == before }, "flow {flow}: {before} to {after}");
    }
    assert!(counts[1..].iter().all(|count| (1800..2200).contains(count)), "{counts:?}");
}

#[test]
fn an_own_network_is_never_given_to_others() {
    for own_first in [true, false] {
        let mut builder = FibBuilder::new();
        let other = || offer(2, 0, Way::Known);
        if !own_first {
            builder.add_subnet(net("10.1.0.0/16"), other());
        }
        builder.add_own(net("10.1.0.0/16"), 1);
        if own_first {
            builder.add_subnet(net("10.1.0.0/16"), other());
        }
        builder.add_subnet(net("10.0.0.0/8"), other());
        assert_eq!(only(&builder.build(), "10.1.2.3"), Some(1));
        assert_eq!(only(&builder.build(), "10.2.2.3"), Some(2));
    }
}

#[test]
fn an_unreachable_subnet_falls_to_the_prefix_around_it_but_an_unreachable_address_does_not() {
    let mut builder = FibBuilder::new();
    builder.add_subnet(net("10.0.0.0/8"), offer(1, 0, Way::Known));
    builder.add_subnet(net("10.1.0.0/16"), offer(2, 0, Way::None));
    builder.add_address(ip("10.1.0.1"), 3);
    let fib = builder.build();
    assert_eq!(only(&fib, "10.1.0.2"), Some(1));
    assert_eq!(only(&fib, "10.1.0.1"), Some(3));
}

#[test]
fn nobody_takes_an_address_over_by_announcing_it_as_a_host_prefix() {
    for owner_first in [true, false] {
        let mut builder = FibBuilder::new();
        if owner_first {
            builder.add_address(ip("10.1.0.1"), 3);
        }
        builder.add_subnet(net("10.1.0.1/32"), offer(4, 0, Way::Known));
        if !owner_first {
            builder.add_address(ip("10.1.0.1"), 3);
        }
        assert_eq!(only(&builder.build(), "10.1.0.1"), Some(3));
    }
}

#[test]
fn the_table_is_bounded() {
    let mut builder = FibBuilder::new();
    for i in 0..MAX_PREFIXES as u32 + 5 {
        builder.add_address(IpAddr::from(i.to_be_bytes()), i);
    }
    assert_eq!(builder.build().len(), MAX_PREFIXES);
    assert_eq!(builder.refused(), 5);
}

/// Prefixes crowded into a small space so that they overlap, with bits behind the length.
fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0u32..64, 24u8..=32)
            .prop_map(|(low, len)| net(&format!("{}/{len}", std::net::Ipv4Addr::from(0x0a00_0000 | low)))),
        (0u128..64, 120u8..=128).prop_map(|(low, len)| net(&format!(
            "{}/{len}",
            std::net::Ipv6Addr::from((0xfd00u128 << 112) | low)
        ))),
        Just(net("0.0.0.0/0")),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..64).prop_map(|low| IpAddr::from((0x0a00_0000 | low).to_be_bytes())),
        (0u128..64).prop_map(|low| IpAddr::from(((0xfd00u128 << 112) | low).to_be_bytes())),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![Just(Way::Known), Just(Way::Possible), Just(Way::None)]
}

proptest! {
    /// The naive model walks all prefixes, longest first.
    #[test]
    fn lookups_agree_with_a_walk_over_all_offers(
        subnets in proptest::collection::vec((prefix(), 0u32..8, 0u16..3, way()), 0..40),
        hosts in proptest::collection::vec((address(), 100u32..108), 0..8),
        queries in proptest::collection::vec((address(), any::<u64>()), 1..20),
    ) {
        let mut builder = FibBuilder::new();
        for (prefix, owner, weight, way) in &subnets {
            builder.add_subnet(*prefix, offer(*owner, *weight, *way));
        }
        for (address, owner) in &hosts {
            builder.add_address(*address, *owner);
        }
        let fib = builder.build();
        for (query, flow) in queries {
            let host = hosts.iter().find(|(address, _)| *address == query).map(|(_, owner)| *owner);
            let usable = || subnets.iter().filter(|(prefix, .., way)| prefix.contains(&query) && *way != Way::None);
            let best = usable().map(|(prefix, _, weight, way)| (128 - prefix.prefix_len(), *weight, *way)).min();
            let sharing: Vec<u32> = usable()
                .filter(|(prefix, _, weight, way)| Some((128 - prefix.prefix_len(), *weight, *way)) == best)
                .map(|(_, owner, ..)| *owner)
                .take(MAX_SHARES)
                .collect();
            let expected = host.map_or(sharing, |host| vec![host]);
            prop_assert_eq!(&fib.owners(&query), &expected);
            let found = fib.lookup(&query, || flow);
            prop_assert_eq!(found.is_some(), !expected.is_empty());
            prop_assert!(found.is_none_or(|owner| expected.contains(&owner)));
            let highest = expected.iter().max_by_key(|owner| mix(flow ^ mix(u64::from(**owner)))).copied();
            if expected.len() > 1 {
                let of = |owner: Option<u32>| owner.map(|owner| mix(flow ^ mix(u64::from(owner))));
                prop_assert_eq!(of(found), of(highest));
            }
        }
    }
}
