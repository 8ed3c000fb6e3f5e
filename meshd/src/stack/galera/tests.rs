//! Every row of the table, and that nothing is decided that could lose a committed write.

use proptest::prelude::*;

use super::*;

const U: &str = "6b7c4d1e-0000-11ee-8000-000000000001";
const V: &str = "aaaaaaaa-0000-11ee-8000-000000000002";

fn stopped(seqno: Option<i64>, safe: bool, view: Option<&str>) -> State {
    State::Stopped(Evidence {
        has_data: true,
        uuid: Some(U.into()),
        seqno,
        safe_to_bootstrap: safe,
        view: view.map(str::to_owned),
        view_members: if view.is_some() { 3 } else { 0 },
    })
}

fn running(last_committed: Option<i64>) -> State {
    State::NonPrimary { last_committed, uuid: Some(U.into()) }
}

fn empty() -> State {
    State::Stopped(Evidence::default())
}

fn cluster(states: [State; 3]) -> BTreeMap<String, State> {
    ["a", "b", "c"].map(str::to_owned).into_iter().zip(states).collect()
}

fn decided(states: [State; 3]) -> Decision {
    decide(&cluster(states), false)
}

#[test]
fn an_existing_primary_is_joined_whatever_the_others_say() {
    let other = || stopped(Some(900), true, None);
    assert_eq!(decided([State::Unknown, State::Primary, other()]), Decision::Join);
    assert_eq!(decided([State::Primary, other(), running(Some(9))]), Decision::Join);
}

#[test]
fn fresh_replicas_found_a_cluster_on_the_first_node() {
    assert!(matches!(decided([empty(), empty(), empty()]), Decision::Found { node, .. } if node == "a"));
}

#[test]
fn all_killed_hard_recover_by_themselves() {
    let killed = || stopped(None, false, Some(V));
    assert!(matches!(decided([killed(), killed(), killed()]), Decision::StartAll { .. }));
}

#[test]
fn all_stopped_gracefully_start_from_the_last() {
    let decision =
        decided([stopped(Some(7), false, None), stopped(Some(9), true, None), stopped(Some(8), false, None)]);
    assert!(matches!(decision, Decision::Found { node, .. } if node == "b"));
}

#[test]
fn without_a_mark_positions_are_recovered_and_the_highest_wins() {
    let unsure =
        decided([stopped(None, false, None), stopped(Some(9), false, None), stopped(None, false, None)]);
    assert_eq!(unsure, Decision::Recover { nodes: vec!["a".into(), "c".into()] });
    let sure = decided([
        stopped(Some(7), false, None),
        stopped(Some(9), false, None),
        stopped(Some(12), false, None),
    ]);
    assert!(matches!(sure, Decision::Found { node, .. } if node == "c"));
}

#[test]
fn a_mark_that_another_ones_data_contradicts_does_not_count() {
    // It was stopped last once; the others went on without it, by `--force`, and were killed.
    let marked = || stopped(Some(7), true, None);
    assert!(
        matches!(decided([marked(), stopped(Some(9), false, None), empty()]), Decision::Found { node, .. } if node == "b")
    );
    assert_eq!(
        decided([marked(), stopped(None, false, None), empty()]),
        Decision::Recover { nodes: vec!["b".into()] }
    );
}

#[test]
fn two_of_three_killed_the_last_one_is_promoted_once_it_is_known_to_be_no_older() {
    let cut_off = || running(Some(40));
    let killed = || stopped(None, false, Some(V));
    assert_eq!(
        decided([cut_off(), killed(), killed()]),
        Decision::Recover { nodes: vec!["b".into(), "c".into()] }
    );
    let known = [cut_off(), stopped(Some(40), false, Some(V)), stopped(Some(39), false, Some(V))];
    assert!(matches!(decided(known), Decision::Promote { node, .. } if node == "a"));
}

#[test]
fn one_that_was_cut_off_joins_the_others_that_went_on_without_it() {
    let cut_off = || running(Some(40));
    // Killed together: the two remember a component of two. Beside one that runs they would find it again, and be taken
    // back to that one's state.
    let pair = |seqno| {
        let State::Stopped(mut evidence) = stopped(seqno, false, Some(V)) else { panic!() };
        evidence.view_members = 2;
        State::Stopped(evidence)
    };
    assert_eq!(
        decided([cut_off(), pair(None), pair(None)]),
        Decision::Recover { nodes: vec!["b".into(), "c".into()] }
    );
    let known = [cut_off(), pair(Some(52)), pair(Some(50))];
    assert!(matches!(decided(known), Decision::Found { node, .. } if node == "b"));
    // Stopped one after the other: the newest founds, and none of it is lost.
    let ordered = || [cut_off(), stopped(Some(41), false, None), stopped(Some(44), true, None)];
    assert!(matches!(decided(ordered()), Decision::Found { node, .. } if node == "c"));
    assert!(matches!(decide(&cluster(ordered()), true), Decision::Found { node, .. } if node == "c"));
}

#[test]
fn replicas_that_start_in_vain_again_and_again_are_judged_by_their_data() {
    let vain = |seqno, safe| {
        let State::Stopped(evidence) = stopped(seqno, safe, None) else { panic!() };
        State::Starting { evidence, founding: false }
    };
    // All machines were shut down in an orderly way, and started again: nobody is there to be joined.
    let orderly = [vain(Some(7), false), vain(Some(7), false), vain(Some(7), true)];
    assert!(matches!(decided(orderly), Decision::Found { node, .. } if node == "c"));
    // One that founds is waited for.
    let founding = State::Starting { evidence: Evidence::default(), founding: true };
    assert!(matches!(decided([founding, empty(), empty()]), Decision::StartAll { .. }));
}

#[test]
fn one_of_another_history_is_not_made_to_join_by_itself() {
    let other = Evidence { has_data: true, seqno: Some(3), uuid: Some(V.into()), ..Evidence::default() };
    let Decision::Ask { why, best } = decided([running(Some(40)), State::Stopped(other), empty()]) else {
        panic!()
    };
    assert!(why.contains("2 different histories") && best.as_deref() == Some("a"), "{why}");
}

#[test]
fn an_unreachable_node_needs_a_decision() {
    let states = [stopped(Some(7), true, None), stopped(Some(6), false, None), State::Unknown];
    let Decision::Ask { why, best } = decided(states.clone()) else { panic!() };
    assert!(why.starts_with("c cannot be reached") && best.as_deref() == Some("a"), "{why}");
    assert!(matches!(decide(&cluster(states), true), Decision::Found { node, .. } if node == "a"));
    // In a partition, the side without quorum must not make itself primary.
    let cut = [running(Some(5)), State::Unknown, State::Unknown];
    assert!(matches!(decided(cut), Decision::Ask { .. }));
}

#[test]
fn different_histories_need_a_decision() {
    let mut other = Evidence { has_data: true, seqno: Some(3), ..Evidence::default() };
    other.uuid = Some(V.into());
    let decision =
        decided([stopped(Some(7), false, None), State::Stopped(other), stopped(Some(7), false, None)]);
    assert!(
        matches!(decision, Decision::Ask { ref why, .. } if why.contains("2 different histories")),
        "{decision:?}"
    );
}

#[test]
fn the_files_are_read_as_galera_writes_them() {
    let grastate = "# GALERA saved state\nversion: 2.1\nuuid:    6b7c4d1e-0000-11ee-8000-000000000001\nseqno:   -1\nsafe_to_bootstrap: 0\n";
    let gvwstate = "my_uuid: aa\n#vwbeg\nview_id: 3 aaaaaaaa-0000-11ee-8000-000000000002 5\nbootstrap: 0\nmember: aa 0\nmember: bb 0\n#vwend\n";
    let evidence = Evidence::read(Some(grastate), Some(gvwstate), None);
    assert_eq!(
        (evidence.uuid.as_deref(), evidence.seqno, evidence.safe_to_bootstrap),
        (Some(U), None, false)
    );
    assert_eq!(
        (evidence.view.as_deref(), evidence.view_members),
        (Some("3 aaaaaaaa-0000-11ee-8000-000000000002 5"), 2)
    );
    assert_eq!(Evidence::read(Some(grastate), None, Some((U, 77))).seqno, Some(77));
    assert_eq!(Evidence::read(None, None, None), Evidence::default());
}

fn any_state() -> impl Strategy<Value = State> {
    let position = proptest::option::of(0i64..20);
    prop_oneof![
        1 => Just(State::Unknown),
        1 => Just(State::Primary),
        2 => position.clone().prop_map(running),
        6 => (any::<bool>(), position, any::<bool>(), 0u8..3, 0u8..2, 0u8..6).prop_map(|(has_data, seqno, safe, view, history, how)| {
            let evidence = Evidence {
                has_data,
                uuid: has_data.then(|| if history == 0 { U.into() } else { V.into() }),
                seqno: seqno.filter(|_| has_data),
                safe_to_bootstrap: safe && has_data,
                view: (view > 0 && has_data).then(|| format!("view{view}")),
                view_members: 3,
            };
            match how {
                0 => State::Starting { evidence, founding: false },
                1 => State::Starting { evidence, founding: true },
                _ => State::Stopped(evidence),
            }
        }),
    ]
}

proptest! {
    #[test]
    fn nothing_is_founded_or_promoted_unforced_that_could_lose_a_write(
        states in proptest::collection::btree_map("[a-e]", any_state(), 1..6)
    ) {
        let decision = decide(&states, false);
        let primary = states.values().any(|state| *state == State::Primary);
        let unknown = states.values().any(|state| *state == State::Unknown);
        let ends = |node: &String| match &states[node] {
            State::Stopped(one) | State::Starting { evidence: one, .. } => one.seqno,
            State::NonPrimary { last_committed, .. } => *last_committed,
            _ => None,
        };
        prop_assert_eq!(decision == Decision::Join, primary);
        match &decision {
            Decision::Found { node, .. } => {
                prop_assert!(!unknown && !primary);
                let (State::Stopped(chosen) | State::Starting { evidence: chosen, .. }) = &states[node] else {
                    panic!("founded on a running replica")
                };
                for (other, state) in &states {
                    if let State::Stopped(one) | State::Starting { evidence: one, .. } = state
                        && one.has_data
                    {
                        prop_assert!(chosen.has_data && one.seqno.is_some());
                        prop_assert_eq!(&one.uuid, &chosen.uuid);
                    }
                    prop_assert!(ends(other) <= ends(node));
                }
            }
            Decision::Promote { node, .. } => {
                prop_assert!(!unknown && !primary);
                prop_assert!(states.keys().all(|other| ends(other) <= ends(node)));
                for (other, state) in &states {
                    if let State::Stopped(one) | State::Starting { evidence: one, .. } = state
                        && one.has_data
                    {
                        // Whoever joins with another history has its data replaced.
                        prop_assert_eq!(one.uuid.as_deref(), Some(U));
                        prop_assert!(ends(other).is_some());
                    }
                }
            }
            _ => {}
        }
    }

    #[test]
    fn nothing_is_started_beside_one_that_runs_without_its_cluster(
        states in proptest::collection::btree_map("[a-e]", any_state(), 1..6)
    ) {
        let runs = states.values().any(|state| matches!(state, State::NonPrimary { .. }));
        let starts = matches!(decide(&states, false), Decision::StartAll { .. });
        prop_assert!(!(runs && starts));
    }

    #[test]
    fn force_always_comes_to_a_decision_where_any_replica_answers(
        states in proptest::collection::btree_map("[a-e]", any_state(), 1..6)
    ) {
        let asked = matches!(decide(&states, true), Decision::Ask { .. });
        prop_assert_eq!(asked, states.values().all(|state| *state == State::Unknown));
    }
}
