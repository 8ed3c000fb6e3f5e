//! Forwarding lookups.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use meshnet::route::{Fib, FibBuilder, Offer, Way};

/// A table with one member for each prefix: half are addresses of members, half subnets of 24 bits.
fn table(prefixes: u32) -> Fib<u32> {
    let mut builder = FibBuilder::new();
    for owner in 0..prefixes / 2 {
        builder.add_address(member(owner), owner);
        let network = Ipv4Addr::from(0xac10_0000_u32.wrapping_add(owner << 8));
        let prefix = Ipv4Net::new(network, 24).expect("24 is a length");
        builder
            .add_subnet(IpNet::V4(prefix), Offer { owner, weight: 0, way: Way::Known, salt: owner.into() });
    }
    assert_eq!(builder.refused(), 0);
    builder.build()
}

fn member(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a63_0000 + number).into()
}

fn in_subnet(number: u32) -> IpAddr {
    Ipv4Addr::from(0xac10_0000_u32.wrapping_add(number << 8) + 77).into()
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("fib lookup");
    for prefixes in [10, 10_000] {
        let fib = table(prefixes);
        let mut walk = |name: &str, address: fn(u32) -> IpAddr| {
            // Destinations in an order without pattern, so that caches see what a busy node's see.
            let addresses: Vec<IpAddr> =
                (0..4096u32).map(|i| address(i.wrapping_mul(2_654_435_761) % (prefixes / 2))).collect();
            let mut next = 0;
            group.bench_function(BenchmarkId::new(name, prefixes), |b| {
                b.iter(|| {
                    next = (next + 1) % addresses.len();
                    fib.lookup(black_box(&addresses[next]), || next as u64)
                });
            });
        };
        walk("member", member);
        walk("subnet", in_subnet);
    }
    group.finish();
}

/// Two minutes for all benchmarks of the crate together.
fn brief() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = brief(); targets = lookup);
criterion_main!(benches);
