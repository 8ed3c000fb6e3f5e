//! The driver against a server that answers step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::script::{Asked, Reply, serve};
use super::*;
use crate::stack::plan::{Action, Reason, Step};
use crate::stack::progress::{Observer, Progress};

const ID: &str = "/s/grafana/ams";
const DEPLOYMENTS: &str = "/v2/deployments";

struct Nobody;

impl Observer for Nobody {
    fn begins(&self, _: &Step) {}
    fn goes_on(&self, _: &Step, _: &Progress) {}
    fn done(&self, _: &Step, _: Duration) {}
}

fn wanted(hash: &str) -> Value {
    json!({ "id": ID, "instances": 1, "tasksRunning": 1, "version": "v2", "labels": { "org.meshnet.stack.hash": hash } })
}

fn is_app(path: &str) -> bool {
    path.starts_with("/v2/apps/s/grafana/ams?embed")
}

fn held_by(apps: &[&str]) -> Reply {
    let one = json!({
        "id": "d7", "affectedApps": apps, "currentStep": 1, "totalSteps": 2,
        "currentActions": [{ "action": "ScaleApplication", "app": apps[0] }],
    });
    Reply::Json(200, json!([one]))
}

fn locked() -> Reply {
    Reply::Json(
        409,
        json!({"message": "App is locked by one or more deployments.", "deployments": [{"id": "d7"}]}),
    )
}

/// Submits and waits for the deployment, for at most `limit_ms`: the end, what was waited for last, and what was asked.
async fn deploy(
    limit_ms: u64,
    answer: impl Fn(&str, &str, usize) -> Reply + Send + Sync + 'static,
) -> (Option<Result<(), String>>, String, Vec<(String, String)>) {
    let (at, asked) = serve(answer).await;
    let (fleet, client) = (Fleet::empty(), Client::new(vec![at]));
    let marathon = Marathon { fleet: &fleet, client: &client, stack: None, force: false };
    let step = Step {
        id: 0,
        after: vec![],
        component: "grafana".into(),
        node: "ams".into(),
        action: Action::Ready,
        reason: Reason::Needed,
        deadline_s: 1,
    };
    let mut why = String::new();
    let end = {
        let mut waiting = Waiting { observer: &Nobody, step: &step, why: &mut why };
        let work = async {
            let app = wanted("new");
            marathon.submit(ID, &app, &mut waiting).await?;
            marathon.deployed(ID, Some(&app), &mut waiting).await
        };
        tokio::time::timeout(Duration::from_millis(limit_ms), work).await.ok()
    };
    (end.map(|end| end.map_err(|error| error.to_string())), why, calls(&asked))
}

fn calls(asked: &Asked) -> Vec<(String, String)> {
    asked.lock().unwrap().iter().map(|(method, path, _)| (method.clone(), path.clone())).collect()
}

fn puts(calls: &[(String, String)]) -> Vec<&str> {
    calls.iter().filter(|(method, _)| method == "PUT").map(|(_, path)| path.as_str()).collect()
}

#[tokio::test(flavor = "current_thread")]
async fn a_deployment_of_the_same_by_an_earlier_run_is_waited_for_and_not_begun_again() {
    let (end, _, calls) = deploy(20_000, |method, path, before| match (method, path) {
        ("PUT", _) => locked(),
        (_, DEPLOYMENTS) if before == 0 => held_by(&[ID]),
        (_, DEPLOYMENTS) => Reply::Json(200, json!([])),
        _ => Reply::Json(200, json!({ "app": wanted("new") })),
    })
    .await;
    assert_eq!(end, Some(Ok(())));
    assert_eq!(puts(&calls).len(), 1, "{calls:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn an_old_deployment_of_the_stack_is_replaced_by_force() {
    let forced = Arc::new(AtomicBool::new(false));
    let (end, _, calls) = deploy(20_000, move |method, path, _| match (method, path) {
        ("PUT", path) if path.ends_with("force=true") => {
            forced.store(true, Ordering::Relaxed);
            Reply::Json(200, json!({"deploymentId": "d8"}))
        }
        ("PUT", _) => locked(),
        (_, DEPLOYMENTS) if forced.load(Ordering::Relaxed) => Reply::Json(200, json!([])),
        (_, DEPLOYMENTS) => held_by(&[ID, "/s/minio/ams"]),
        _ => Reply::Json(
            200,
            json!({ "app": wanted(if forced.load(Ordering::Relaxed) { "new" } else { "old" }) }),
        ),
    })
    .await;
    assert_eq!(end, Some(Ok(())));
    assert_eq!(puts(&calls).len(), 2, "{calls:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_deployment_that_has_others_too_is_left_alone_and_named() {
    let (end, why, calls) = deploy(4_000, |method, path, _| match (method, path) {
        ("PUT", _) => locked(),
        (_, DEPLOYMENTS) => held_by(&[ID, "/shop/web"]),
        _ => Reply::Json(200, json!({ "app": wanted("old") })),
    })
    .await;
    assert_eq!(end, None);
    assert!(why.contains("deployment d7 of /s/grafana/ams, /shop/web") && why.contains("--force"), "{why}");
    assert!(puts(&calls).iter().all(|path| !path.contains("force=true")), "{calls:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_request_whose_answer_was_lost_is_not_made_twice_if_it_was_heard() {
    let (end, _, calls) = deploy(20_000, |method, path, _| match (method, path) {
        ("PUT", _) => Reply::Gone,
        (_, DEPLOYMENTS) => Reply::Json(200, json!([])),
        _ => Reply::Json(200, json!({ "app": wanted("new") })),
    })
    .await;
    assert_eq!(end, Some(Ok(())));
    assert_eq!(puts(&calls).len(), 1, "{calls:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_change_of_leader_in_the_middle_is_waited_out() {
    let (end, _, calls) = deploy(30_000, |method, path, before| match (method, path) {
        ("PUT", _) if before == 0 => {
            Reply::Json(503, json!({"message": "Could not determine the current leader"}))
        }
        ("PUT", _) => Reply::Json(201, json!({"deploymentId": "d7"})),
        (_, DEPLOYMENTS) => match before {
            0 => held_by(&[ID]),
            1 => Reply::Gone,
            2 => Reply::Json(503, json!({})),
            _ => Reply::Json(200, json!([])),
        },
        // It was not heard the first time.
        (_, path) if is_app(path) && before == 0 => Reply::Json(404, json!({})),
        _ => Reply::Json(200, json!({ "app": wanted("new") })),
    })
    .await;
    assert_eq!(end, Some(Ok(())));
    assert_eq!(puts(&calls).len(), 2, "{calls:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_stuck_deployment_says_at_its_deadline_why() {
    let (end, why, _) = deploy(4_000, |method, path, _| match (method, path) {
        ("PUT", _) => Reply::Json(200, json!({"deploymentId": "d7"})),
        (_, DEPLOYMENTS) => held_by(&[ID]),
        (_, "/v2/queue") => Reply::Json(
            200,
            json!({"queue": [{"app": {"id": ID}, "processedOffersSummary": {"rejectSummaryLastOffers": [
                {"reason": "InsufficientPorts", "declined": 2, "processed": 2}]}}]}),
        ),
        _ => {
            let mut app = wanted("new");
            app["tasksRunning"] = json!(0);
            app["lastTaskFailure"] =
                json!({"state": "TASK_FAILED", "message": "exited with status 3", "version": "v2"});
            Reply::Json(200, json!({ "app": app }))
        }
    })
    .await;
    assert_eq!(end, None);
    for expected in
        ["deployment d7 is at step 1 of 2: ScaleApplication", "a port is taken", "exited with status 3"]
    {
        assert!(why.contains(expected), "{expected}: {why}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_deployment_that_was_rolled_back_and_an_invalid_application_are_failures() {
    let (end, _, _) = deploy(20_000, |method, path, _| match (method, path) {
        ("PUT", _) => Reply::Json(200, json!({"deploymentId": "d7"})),
        (_, DEPLOYMENTS) => Reply::Json(200, json!([])),
        _ => Reply::Json(200, json!({ "app": wanted("old") })),
    })
    .await;
    assert!(end.unwrap().unwrap_err().contains("rolled it back"));
    let (end, _, calls) =
        deploy(20_000, |_, _, _| Reply::Json(422, json!({"message": "Object is not valid"}))).await;
    assert!(end.unwrap().unwrap_err().contains("Object is not valid"));
    assert_eq!(calls.len(), 1);
}
