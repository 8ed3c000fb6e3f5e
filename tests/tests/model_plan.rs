//! Every state that a plan for new keys can get into, for three members: whatever is delivered, lost, or restarted in
//! whichever order, no two members that run are ever without a way to make a handshake.
//!
//! The model knows what `meshnet::node::plan` and `rotation` do, and nothing else: a member prepares, tells, confirms,
//! commits when all have confirmed, and finalizes. Messages are lost by never being delivered. A member that restarts keeps
//! its own keys, which were written ahead, and may lose what it had heard of others, which is a cache.

use std::collections::{HashSet, VecDeque};

const MEMBERS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Phase {
    /// Has the old key.
    Old,
    /// Has both; makes handshakes with the old one.
    Prepared,
    /// Has both; makes handshakes with the new one.
    Committed,
    /// Has the new key.
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    phase: [Phase; MEMBERS],
    /// `knows[a][b]`: a knows b's new key.
    knows: [[bool; MEMBERS]; MEMBERS],
    /// `told[a][b]`: a has heard that b knows a's new key.
    told: [[bool; MEMBERS]; MEMBERS],
    /// `floor[a][b]`: a has heard that b refuses its old key, and so do others.
    floor: [[bool; MEMBERS]; MEMBERS],
}

/// What the rules are; the real ones, or weakened ones that the model must find wanting.
#[derive(Clone, Copy)]
struct Rules {
    commit_needs_all: bool,
    finalize_needs_commit: bool,
    /// Restarts may lose what was heard of others.
    caches_are_lost: bool,
    /// Inits to a retired key are answered by the new one, and unanswered inits carry the sender's.
    late_are_told: bool,
}

const REAL: Rules = Rules {
    commit_needs_all: true,
    finalize_needs_commit: true,
    caches_are_lost: false,
    late_are_told: false,
};

impl State {
    fn start() -> State {
        let nothing = [[false; MEMBERS]; MEMBERS];
        State { phase: [Phase::Old; MEMBERS], knows: nothing, told: nothing, floor: nothing }
    }

    fn accepts_old(&self, member: usize) -> bool {
        self.phase[member] != Phase::Done
    }

    fn accepts_new(&self, member: usize) -> bool {
        self.phase[member] != Phase::Old
    }

    /// Whether an init of `a` to `b` leads to a session.
    fn opens(&self, a: usize, b: usize, rules: Rules) -> bool {
        let key_of_b_fits = match self.knows[a][b] {
            true => self.accepts_new(b),
            false => self.accepts_old(b) || rules.late_are_told,
        };
        let key_of_a_fits = match self.phase[a] {
            Phase::Old | Phase::Prepared => !self.floor[b][a],
            Phase::Committed | Phase::Done => self.knows[b][a] || rules.late_are_told,
        };
        key_of_b_fits && key_of_a_fits
    }

    fn next(&self, rules: Rules) -> Vec<State> {
        let mut next = Vec::new();
        let mut step = |change: &dyn Fn(&mut State)| {
            let mut state = *self;
            change(&mut state);
            if state != *self {
                next.push(state);
            }
        };
        for a in 0..MEMBERS {
            let others = || (0..MEMBERS).filter(move |b| *b != a);
            match self.phase[a] {
                Phase::Old => step(&|state| state.phase[a] = Phase::Prepared),
                Phase::Prepared if !rules.commit_needs_all || others().all(|b| self.told[a][b]) => {
                    step(&|state| state.phase[a] = Phase::Committed);
                }
                Phase::Prepared if !rules.finalize_needs_commit => {
                    step(&|state| state.phase[a] = Phase::Done);
                }
                Phase::Committed => step(&|state| state.phase[a] = Phase::Done),
                Phase::Prepared | Phase::Done => {}
            }
            for b in others() {
                if self.phase[a] != Phase::Old {
                    step(&|state| state.knows[b][a] = true);
                }
                if self.knows[b][a] {
                    step(&|state| state.told[a][b] = true);
                }
                // A floor above what is known here is kept, but the new key comes with it or is asked for.
                if self.phase[a] == Phase::Done && self.knows[b][a] {
                    step(&|state| state.floor[b][a] = true);
                }
            }
            if rules.caches_are_lost {
                step(&|state| {
                    state.knows[a] = [false; MEMBERS];
                    state.told[a] = [false; MEMBERS];
                    state.floor[a] = [false; MEMBERS];
                });
            }
        }
        next
    }
}

/// Walks through all states; the first in which some pair cannot talk, and how many there are.
fn explore(rules: Rules) -> (Option<State>, usize, bool) {
    let (mut seen, mut queue) = (HashSet::from([State::start()]), VecDeque::from([State::start()]));
    let mut all_done = false;
    while let Some(state) = queue.pop_front() {
        let pairs = (0..MEMBERS).flat_map(|a| (0..MEMBERS).filter(move |b| *b != a).map(move |b| (a, b)));
        for (a, b) in pairs {
            if !state.opens(a, b, rules) && !state.opens(b, a, rules) {
                return (Some(state), seen.len(), all_done);
            }
        }
        all_done |= state.phase == [Phase::Done; MEMBERS];
        for next in state.next(rules) {
            if seen.insert(next) {
                queue.push_back(next);
            }
        }
    }
    (None, seen.len(), all_done)
}

#[test]
fn no_two_members_are_ever_without_a_way_to_make_a_handshake() {
    let (stuck, states, all_done) = explore(REAL);
    assert_eq!(stuck, None);
    assert!(all_done, "the plan never ends");
    println!("{states} states");
    assert!(states > 1_000, "{states}");
}

#[test]
fn nor_when_restarts_lose_what_was_heard_because_the_late_are_told() {
    let (stuck, states, all_done) = explore(Rules { caches_are_lost: true, late_are_told: true, ..REAL });
    assert_eq!(stuck, None);
    assert!(all_done);
    println!("{states} states");
}

#[test]
fn each_rule_is_needed() {
    // Without the answer to the late, lost caches lock members out.
    assert!(explore(Rules { caches_are_lost: true, ..REAL }).0.is_some());
    // Without waiting for all, members commit to keys that others do not know.
    assert!(explore(Rules { commit_needs_all: false, ..REAL }).0.is_some());
    assert!(explore(Rules { finalize_needs_commit: false, ..REAL }).0.is_some());
}
