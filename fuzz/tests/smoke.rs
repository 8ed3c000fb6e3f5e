//! A smoke test without a fuzzing engine: each target's first inputs, mutated from a seed. `FUZZ_SEED` chooses the seed,
//! `FUZZ_ROUNDS` the number of inputs for each target. A failure prints both and the input.

use meshnet_fuzz::{TARGETS, seeds, vectors};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Inputs for each target.
const ROUNDS: u64 = 20_000;
const SEED: u64 = 1;
/// Longest input: more than a datagram holds on most networks, and a super-packet of some segments.
const MAX_LEN: usize = 4096;
/// Values that lengths, counts, and types go wrong at.
const EDGES: [u8; 12] = [0, 1, 2, 3, 4, 6, 0x0f, 0x10, 0x7f, 0x80, 0xfe, 0xff];

#[test]
fn datagrams_survive_mutated_vectors() {
    survives("datagram");
}

#[test]
fn frames_survive_mutated_vectors() {
    survives("frames");
}

#[test]
fn signed_objects_survive_mutated_vectors() {
    survives("signed");
}

#[test]
fn invitations_survive_mutated_vectors() {
    survives("invitation");
}

#[test]
fn packets_survive_mutation() {
    survives("packet");
}

#[test]
fn mutated_super_packets_are_cut_by_the_rules_and_put_together_again() {
    survives("split_merge");
}

#[test]
fn whatever_a_trailer_says_the_packets_come_out_as_they_went_in() {
    survives("trailer");
}

#[test]
fn hop_tags_hold_over_mutated_datagrams() {
    survives("relay");
}

#[test]
fn certificates_that_are_accepted_keep_the_rules() {
    survives("certificate");
}

#[test]
fn chains_of_bundles_take_what_their_rules_allow_and_nothing_else() {
    survives("bundle");
}

#[test]
fn a_node_starts_from_any_store_and_lets_no_stranger_in() {
    survives("store");
}

#[test]
fn files_of_keys_are_read_as_they_are_written_or_not_at_all() {
    survives("key_file");
}

#[test]
fn who_may_only_look_gets_nothing_else_asked_on_the_control_socket() {
    survives("control");
}

#[test]
fn the_newest_genuine_record_wins_whatever_was_said_and_stores_that_compared_are_equal() {
    survives("records");
}

#[test]
fn flooding_stays_within_its_bounds_and_never_spins() {
    survives("flooding");
}

#[test]
fn every_target_takes_every_vector_as_it_is() {
    let vectors = vectors().expect("the vectors are committed");
    assert!(vectors.len() > 40);
    for (name, entry) in TARGETS {
        seeds(name).expect("the vectors are committed").iter().for_each(|(_, bytes)| entry(bytes));
    }
    for (_, bytes) in &vectors {
        TARGETS.iter().for_each(|(_, entry)| entry(bytes));
    }
}

fn survives(target: &str) {
    let (name, entry) = *TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let seed = setting("FUZZ_SEED", SEED);
    let vectors = seeds(name).expect("the vectors are committed");
    let mut rng = StdRng::seed_from_u64(seed);
    // Those that sign, or start a node, take their time.
    let rounds = match name {
        "certificate" | "bundle" => ROUNDS / 10,
        "store" => ROUNDS / 50,
        _ => ROUNDS,
    };
    for round in 0..setting("FUZZ_ROUNDS", rounds) {
        let mut input = pick(&vectors, &mut rng);
        for _ in 0..rng.random_range(1..=4) {
            mutate(&mut input, &vectors, &mut rng);
        }
        input.truncate(MAX_LEN);
        let _told = Told { name, seed, round, input: &input };
        entry(&input);
    }
}

/// One step away from the input.
fn mutate(input: &mut Vec<u8>, vectors: &[(String, Vec<u8>)], rng: &mut StdRng) {
    if input.is_empty() {
        *input = pick(vectors, rng);
    }
    let at = rng.random_range(0..input.len());
    let end = rng.random_range(at..=input.len());
    match rng.random_range(0..9) {
        0 => input[at] ^= 1 << rng.random_range(0..8),
        1 => input[at] = *EDGES.choose(rng).expect("not empty"),
        2 => input[at] = input[at].wrapping_add(*[1, 255].choose(rng).expect("not empty")),
        3 => input.truncate(at),
        4 => drop(input.drain(at..end)),
        5 => {
            let copied = input[at..end].to_vec();
            input.splice(at..at, copied);
        }
        6 => {
            let noise = (0..rng.random_range(1..16)).map(|_| rng.random()).collect::<Vec<u8>>();
            input.splice(at..at, noise);
        }
        7 => {
            // The front of this one and the back of another.
            let other = pick(vectors, rng);
            input.truncate(at);
            input.extend(&other[at.min(other.len())..]);
        }
        _ => {
            // A type, length, and value where one may begin; the length of an object's body grows along.
            let value = vec![rng.random(); rng.random_range(0..6)];
            let field =
                [&[*EDGES.choose(rng).expect("not empty"), 0, value.len() as u8], &value[..]].concat();
            if let [1, 1..=5, high, low, ..] = &mut input[..] {
                let body_len = u16::from_be_bytes([*high, *low]);
                [*high, *low] = body_len.saturating_add(field.len() as u16).to_be_bytes();
                let body_end = (4 + usize::from(body_len)).min(input.len());
                input.splice(body_end..body_end, field);
            } else {
                input.splice(at..at, field);
            }
        }
    }
}

fn pick(vectors: &[(String, Vec<u8>)], rng: &mut StdRng) -> Vec<u8> {
    vectors.choose(rng).expect("the vectors are committed").1.clone()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Tells how to replay a failure.
struct Told<'a> {
    name: &'static str,
    seed: u64,
    round: u64,
    input: &'a [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{}: FUZZ_SEED={} round {} input {hex}", self.name, self.seed, self.round);
        }
    }
}
