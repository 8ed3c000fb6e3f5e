//! What announcements on LANs lead to.

use super::*;

#[test]
fn each_copy_of_an_announcement_tells_where_it_comes_from_and_a_repeated_one_nothing() {
    let mut world = World::new(41, &[false, false]);
    let (now, sender) = (world.now, world.id(1));
    world.hosts[0].node.as_mut().unwrap().settings.lan_discovery = true;
    let mut copy = || world.hosts[1].node.as_mut().unwrap().announcement(false);
    let copies = [copy(), copy()];
    // The first one with a source that is not reached, as of a device that lost its cable.
    let sources: [SocketAddr; 2] = ["10.5.0.1:4656", "10.6.0.1:4656"].map(|source| source.parse().unwrap());
    let heard = |world: &World| -> Vec<String> {
        let node = world.hosts[0].node.as_ref().unwrap();
        node.lan.endpoints(now.mono, sender).map(|endpoint| endpoint.to_string()).collect()
    };
    for (bytes, source) in copies.iter().zip(sources) {
        world.hosts[0].node.as_mut().unwrap().handle_lan(now, source, bytes);
    }
    let both = heard(&world);
    assert!(both.contains(&"10.5.0.1:7946".into()) && both.contains(&"10.6.0.1:7946".into()), "{both:?}");
    // A stranger repeats one.
    world.hosts[0].node.as_mut().unwrap().handle_lan(now, "10.7.0.1:4656".parse().unwrap(), &copies[1]);
    assert_eq!(heard(&world), both);
}
