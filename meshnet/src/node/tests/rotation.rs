//! The own transport key while it is replaced: what is accepted when, what waits for the disk, and what ends at once.

use proto::id::MeshId;
use proto::signed::OBJECT_MAX_LEN;

use super::*;
use crate::node::rotation::{CONFIRM_PATIENCE, OwnKeys, Phase, RENEW_PATIENCE, RotateError, confirm_mark};
use crate::node::view::EpochUse;

fn number(number: u32) -> KeyEpochNumber {
    KeyEpochNumber(number)
}

/// A ring of keys, each made a day after the one before.
fn ring(epochs: &[u32], in_use: u32) -> KeyRing {
    let identity = IdentitySecret::from_bytes(&[7; 32]);
    let own = |n: &u32| {
        let secret = TransportSecret::new([*n as u8; 32]);
        let epoch = KeyEpoch {
            mesh: MeshId([1; 16]),
            member: crate::membership::member_id(&identity.public()),
            number: number(*n),
            key: secret.public(),
            created_s: START_S + u64::from(*n) * 86_400,
            capabilities: Capabilities::default(),
        };
        OwnEpoch { secret, signed: identity.sign_key_epoch(epoch).unwrap() }
    };
    KeyRing::new(epochs.iter().map(own).collect(), number(in_use), Vec::new(), number(0)).unwrap()
}

#[test]
fn what_is_on_the_disk_says_which_keys_are_accepted_and_how_far_the_rotation_is() {
    let now = Mono(5_000_000);
    for (epochs, in_use, next, previous, phase) in [
        (&[1][..], 1, None, None, Phase::Steady),
        (&[1, 2], 1, Some(2), None, Phase::Announced),
        (&[1, 2], 2, None, Some(1), Phase::Renewing),
        (&[4, 6, 9], 6, Some(9), Some(4), Phase::Announced),
        (&[4, 6, 9], 9, None, Some(6), Phase::Renewing),
    ] {
        let keys = OwnKeys::resume(ring(epochs, in_use), now);
        assert_eq!(keys.phase(), phase, "{epochs:?} {in_use}");
        let local = keys.local_epochs();
        let numbers =
            (local.current.number.0, local.next.map(|e| e.number.0), local.previous.map(|e| e.number.0));
        assert_eq!(numbers, (in_use, next, previous), "{epochs:?}");
        let (first, last) = (epochs[0], epochs[epochs.len() - 1]);
        assert_eq!((keys.announced(), keys.in_use().number()), (number(last), number(in_use)));
        assert_eq!((keys.floor().accepted, keys.floor().cut), (number(first), number(0)));
        let day = |n: u32| START_S + u64::from(n) * 86_400;
        assert_eq!((keys.announced_created_s(), keys.newest_created_s()), (day(last), day(last)));
        assert_eq!(keys.oldest_created_s(), day(first));
        let patience = if phase == Phase::Renewing { RENEW_PATIENCE } else { CONFIRM_PATIENCE };
        assert_eq!(keys.waits_until(), now + patience);
    }
}

fn pair(seed: u64) -> World {
    let mut world = World::new(seed, &[false, false]);
    world.run(seconds(2));
    assert_eq!(sessions(&world, 0), [(1, 1)]);
    world
}

fn rotate(world: &mut World, stolen: bool) -> Result<KeyEpochNumber, RotateError> {
    let now = world.now;
    let outcome = world.hosts[0].node.as_mut().unwrap().rotate_keys(now, stolen);
    world.drain(0);
    outcome
}

fn saved(world: &mut World, generation: u64) {
    let now = world.now;
    world.hosts[0].node.as_mut().unwrap().keys_saved(now, generation);
    world.drain(0);
}

fn phase(world: &World) -> Phase {
    world.hosts[0].node.as_ref().unwrap().keys_view(world.now).phase
}

/// The epochs of this end and the other of all keypairs that receive.
fn sessions(world: &World, at: usize) -> Vec<(u32, u32)> {
    let peers = world.hosts[at].node.as_ref().unwrap().peers.values();
    let epochs = peers.flat_map(|peer| peer.session.keypairs().map(|k| (k.local_epoch.0, k.remote_epoch.0)));
    BTreeSet::from_iter(epochs).into_iter().collect()
}

/// The newest epoch of node 0 that node 1 knows.
fn known(world: &World) -> u32 {
    let member = world.id(0);
    let other = world.hosts[1].node.as_ref().unwrap();
    other.membership().get(member).unwrap().epochs().newest().unwrap().body().number.0
}

fn numbers(ring: &KeyRing) -> (Vec<u32>, u32) {
    (ring.epochs().iter().map(|epoch| epoch.number().0).collect(), ring.in_use().0)
}

#[test]
fn a_key_is_told_when_it_is_on_the_disk_and_erased_when_the_last_session_knows_the_new_one() {
    let mut world = pair(40);
    assert_eq!(rotate(&mut world, false), Ok(number(2)));
    let (ring, generation) = world.hosts[0].saves.pop().unwrap();
    assert_eq!(numbers(&ring), (vec![1, 2], 1));
    let newest = world.hosts[0].node.as_ref().unwrap().keys_view(world.now);
    assert_eq!((newest.target, newest.epochs.len()), (number(2), 1));
    for wrong in [generation - 1, generation + 1] {
        saved(&mut world, wrong);
        world.run(seconds(1));
        assert_eq!((phase(&world), known(&world)), (Phase::Saving, 1));
    }
    assert_eq!(rotate(&mut world, false), Err(RotateError::UnderWay(number(2))));
    // Nobody confirms while the other end is away.
    world.silent.insert(1);
    saved(&mut world, generation);
    assert_eq!(phase(&world), Phase::Announced);
    let view = world.hosts[0].node.as_ref().unwrap().keys_view(world.now);
    assert_eq!(view.waiting_for, [world.id(1)]);
    assert_eq!(
        view.epochs.iter().map(|epoch| epoch.usage).collect::<Vec<_>>(),
        [EpochUse::Current, EpochUse::Next]
    );
    assert_eq!(rotate(&mut world, false), Err(RotateError::UnderWay(number(2))));
    world.run(Duration::from_millis(300));
    assert_eq!(phase(&world), Phase::Announced);
    let knows = world.hosts[0].node.as_ref().unwrap().knows_our_key(world.id(1));
    assert!(knows, "the one in use, which is the old one");
    world.silent.clear();
    let mut phases = vec![phase(&world)];
    world.run_with(seconds(8), |world| {
        if phases.last() != Some(&phase(world)) {
            phases.push(phase(world));
            let sending = world.hosts[0].node.as_ref().unwrap().keys_view(world.now).peers[0].session;
            let renewed = sending == Some((number(2), number(1)));
            assert_eq!(
                renewed,
                phase(world) == Phase::Erasing,
                "the old key goes when sessions are new: {sending:?}"
            );
        }
    });
    assert_eq!(phases, [Phase::Announced, Phase::Renewing, Phase::Erasing]);
    assert_eq!(known(&world), 2);
    assert!(sessions(&world, 0).contains(&(2, 1)), "{:?}", sessions(&world, 0));
    // First the new key in use, beside the old one; then without it.
    let saves = std::mem::take(&mut world.hosts[0].saves);
    assert_eq!(
        saves.iter().map(|(ring, _)| numbers(ring)).collect::<Vec<_>>(),
        [(vec![1, 2], 2), (vec![2], 2)]
    );
    assert_eq!(saves[1].0.retired(), [TransportSecret::new(world.hosts[0].transport).public()]);
    // What was written before does not stand for what is being written.
    saved(&mut world, saves[0].1);
    assert_eq!(phase(&world), Phase::Erasing);
    saved(&mut world, saves[1].1);
    let begun = world.now.mono;
    // Sessions made with the old key receive for a while; when the last is over, the rotation is.
    let draining = |world: &World| sessions(world, 0).iter().any(|(local, _)| *local == 1);
    while draining(&world) {
        assert_eq!((phase(&world), world.hosts[0].rotated.len()), (Phase::Draining, 0));
        world.run(Duration::from_millis(500));
    }
    let took = world.now.mono.since(begun);
    assert!(
        took > seconds(1) && took < seconds(179),
        "before the time that is given to it is over: {took:?}"
    );
    world.run(seconds(1));
    assert_eq!((phase(&world), &world.hosts[0].rotated[..]), (Phase::Steady, &[number(2)][..]));
}

/// Killed after a member confirmed the new key, and before all had: nobody has a reason to confirm it again.
#[test]
fn a_confirmation_from_before_a_restart_counts_after_it() {
    // Node 1 hears of node 0 from the relay alone, so that its own record does not change by a restart of node 0.
    let mut world = World::new(47, &[false, false, false, true]);
    world.cut.extend([(0, 1), (0, 2), (1, 2)]);
    world.run(seconds(3));
    world.silent.insert(2);
    assert_eq!(rotate(&mut world, false), Ok(number(2)));
    let (ring, generation) = world.hosts[0].saves.pop().unwrap();
    world.hosts[0].ring = Some(ring);
    saved(&mut world, generation);
    let waits_for =
        |world: &World| world.hosts[0].node.as_ref().unwrap().keys_view(world.now).waiting_for.clone();
    world.run(Duration::from_millis(300));
    assert_eq!((phase(&world), waits_for(&world)), (Phase::Announced, vec![world.id(2)]));
    world.start(0);
    world.silent.clear();
    assert_eq!(phase(&world), Phase::Announced);
    world.run(seconds(3));
    assert_eq!(waits_for(&world), []);
    assert!(phase(&world) > Phase::Announced, "{:?}", phase(&world));
}

/// Who is known to be away gets the new key when it comes back.
#[test]
fn who_is_away_is_not_waited_for() {
    let mut world = World::new(45, &[false, false, false]);
    world.run(seconds(2));
    world.silent.insert(2);
    world.run(seconds(20));
    assert_eq!(rotate(&mut world, false), Ok(number(2)));
    let (_, generation) = world.hosts[0].saves.pop().unwrap();
    let here = world.id(1);
    saved(&mut world, generation);
    let view = world.hosts[0].node.as_ref().unwrap().keys_view(world.now);
    let present: Vec<_> = view.peers.iter().filter(|peer| peer.present).map(|peer| peer.member).collect();
    assert_eq!((&view.waiting_for, &present), (&vec![here], &vec![here]));
    world.run(seconds(3));
    assert!(phase(&world) > Phase::Announced, "{:?}", phase(&world));
    assert_eq!(known(&world), 2);
}

#[test]
fn with_a_stolen_key_everything_ends_at_once_and_nothing_before_the_new_one_is_on_the_disk() {
    let mut world = pair(41);
    assert_eq!(rotate(&mut world, true), Ok(number(2)));
    assert_eq!(rotate(&mut world, true), Err(RotateError::Replacing));
    assert_eq!(rotate(&mut world, false), Err(RotateError::Replacing));
    let (ring, generation) = world.hosts[0].saves.pop().unwrap();
    assert_eq!((numbers(&ring), ring.cut()), ((vec![2], 2), number(2)));
    world.run(Duration::from_millis(200));
    assert_eq!((sessions(&world, 0), known(&world)), (vec![(1, 1)], 1));
    let told = |world: &World, member: MemberId| world.hosts[0].node.as_ref().unwrap().knows_our_key(member);
    let (other, stranger) = (world.id(1), MemberId([9; 16]));
    assert!(told(&world, other) && told(&world, stranger), "whoever knows a key of ours knows this one");
    saved(&mut world, generation);
    assert_eq!((sessions(&world, 0), phase(&world)), (vec![], Phase::Draining));
    assert!(!told(&world, other) && !told(&world, stranger));
    world.run(seconds(1));
    assert!(told(&world, other) && !told(&world, stranger));
    assert_eq!((sessions(&world, 0), sessions(&world, 1)), (vec![(2, 1)], vec![(1, 2)]));
    assert_eq!((known(&world), phase(&world)), (2, Phase::Steady));
    // The next one is an ordinary one again: sessions go on.
    assert_eq!(rotate(&mut world, false), Ok(number(3)));
    let (ring, generation) = world.hosts[0].saves.pop().unwrap();
    assert_eq!((numbers(&ring), ring.cut()), ((vec![2, 3], 2), number(2)));
    saved(&mut world, generation);
    assert_eq!((sessions(&world, 0), phase(&world)), (vec![(2, 1)], Phase::Announced));
}

#[test]
fn a_theft_overtakes_a_rotation_that_is_being_written() {
    let mut world = pair(42);
    assert_eq!(rotate(&mut world, false), Ok(number(2)));
    assert_eq!(rotate(&mut world, true), Ok(number(3)));
    let generations: Vec<u64> = world.hosts[0].saves.iter().map(|(_, generation)| *generation).collect();
    assert_eq!(numbers(&world.hosts[0].saves[1].0), (vec![3], 3));
    assert!(generations[0] < generations[1]);
    saved(&mut world, generations[0]);
    assert_eq!(
        (phase(&world), sessions(&world, 0)),
        (Phase::Saving, vec![(1, 1)]),
        "that is not what is waited for"
    );
    saved(&mut world, generations[1]);
    assert_eq!((phase(&world), sessions(&world, 0)), (Phase::Draining, vec![]));
    world.run(seconds(1));
    assert_eq!(sessions(&world, 0), [(3, 1)]);
}

/// Public halves are kept for the answer to who comes late, and only so many.
#[test]
fn so_many_replaced_keys_are_recognised_the_newest_ones() {
    let mut world = pair(43);
    let mut keys = vec![TransportSecret::new(world.hosts[0].transport).public()];
    for _ in 0..crate::session::MAX_RETIRED + 3 {
        rotate(&mut world, true).unwrap();
        let (ring, generation) = world.hosts[0].saves.pop().unwrap();
        let newest = keys.len().saturating_sub(crate::session::MAX_RETIRED);
        assert_eq!(ring.retired(), &keys[newest..]);
        keys.push(ring.epochs()[0].signed.body().key);
        saved(&mut world, generation);
    }
}

#[test]
fn timestamps_that_were_seen_are_written_after_ten_minutes() {
    let mut world = World::new(44, &[false, false]);
    world.run(seconds(1));
    let now = world.now;
    let later = now.after(seconds(600));
    let mut writes = |now: Now, noted: bool| {
        let node = world.hosts[0].node.as_mut().unwrap();
        while node.poll_event().is_some() {}
        if noted {
            node.seen.note();
        }
        node.save_seen_if_due(now);
        matches!(node.poll_event(), Some(Event::CacheChanged))
    };
    assert!(!writes(now, true), "it was written when the node started");
    assert!(writes(later, false));
    assert!(!writes(later.after(seconds(600)), false), "nothing new");
}

#[test]
fn who_comes_with_an_init_to_a_key_of_before_is_told_the_new_one_and_connects_at_once() {
    let mut world = pair(46);
    world.silent.insert(1);
    rotate(&mut world, true).unwrap();
    let (_, generation) = world.hosts[0].saves.pop().unwrap();
    saved(&mut world, generation);
    world.run(seconds(60));
    world.silent.clear();
    // Started anew, it knows the old key only.
    world.start(1);
    assert_eq!(known(&world), 1);
    world.hosts[0].received.clear();
    world.packet(1, 0, 5);
    world.run(Duration::from_millis(12));
    assert_eq!((known(&world), sessions(&world, 1)), (2, vec![(1, 2)]), "in three round trips");
    assert_eq!(world.numbers(0), [5]);
}

/// A confirmation says that the key is known, not that it was heard of: who is confirmed to uses it.
#[test]
fn a_new_key_is_confirmed_by_who_knows_it_and_in_short_where_there_is_little_room() {
    let mut world = pair(47);
    let (rotating, none) = (world.id(0), (vec![], vec![]));
    let confirms = |world: &World, room: usize| {
        // What is left of a record with so many candidates, subnets, and links.
        let used = (OBJECT_MAX_LEN - 512 - room) / 22;
        let left = OBJECT_MAX_LEN - 512 - used * 22;
        (world.hosts[1].node.as_ref().unwrap().own_confirms(world.now.mono, used), left)
    };
    assert_eq!(confirms(&world, 5000).0, none, "nobody is rotating");
    world.silent.insert(1);
    rotate(&mut world, false).unwrap();
    let (ring, generation) = world.hosts[0].saves.pop().unwrap();
    saved(&mut world, generation);
    world.run(Duration::from_millis(300));
    let record = world.hosts[0].node.as_ref().unwrap().lsdb.get(rotating).unwrap().as_bytes().to_vec();
    let now = world.now;
    let node = world.hosts[1].node.as_mut().unwrap();
    node.learn_record(now, rotating, Signed::parse(&record).unwrap());
    assert_eq!(confirms(&world, 5000).0, none, "the key itself has not come");
    let node = world.hosts[1].node.as_mut().unwrap();
    node.learn_key_epoch(now, ring.epochs()[1].signed.clone(), None);
    assert_eq!(confirms(&world, 5000).0, (vec![(rotating, number(2))], vec![]));
    // A confirmation has 20 bytes, one in short 4; the room goes down by 22 at a time.
    let ((whole, short), left) = confirms(&world, 20);
    assert!((20..42).contains(&left) && whole.len() == 1 && short.is_empty(), "{left}");
    let ((whole, short), left) = confirms(&world, 0);
    let expected = if left >= 4 { vec![confirm_mark(rotating, number(2))] } else { vec![] };
    assert_eq!((whole.len(), short), (usize::from(left >= 20), if left >= 20 { vec![] } else { expected }));
    let full = world.hosts[1].node.as_ref().unwrap().own_confirms(now.mono, OBJECT_MAX_LEN);
    assert_eq!(full, none);
}

#[test]
fn a_confirmation_in_short_is_of_one_key_of_one_member() {
    let members = (0..50).map(|n: u8| MemberId([n; 16]));
    let marks: BTreeSet<u32> =
        members.flat_map(|member| [1, 2].map(|n| confirm_mark(member, number(n)))).collect();
    assert_eq!(marks.len(), 100);
}

#[test]
fn a_key_is_replaced_within_the_time_that_is_configured_and_not_much_earlier() {
    for seed in 48..52 {
        let mut world = World::new(seed, &[false, false]);
        let every = seconds(7 * 86_400);
        let now = world.now;
        let node = world.hosts[0].node.as_mut().unwrap();
        node.settings.rotate_every = Some(every);
        let at_s = node.keys_view(now).next_rotation_s.unwrap();
        assert!(at_s <= START_S + every.as_secs() && at_s >= START_S + every.as_secs() * 9 / 10, "{at_s}");
    }
}
