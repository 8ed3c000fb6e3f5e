use serde_json::json;

use super::super::script::{Reply, serve};
use super::*;

/// Nothing listens there.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[tokio::test(flavor = "current_thread")]
async fn servers_without_a_leader_or_life_are_passed_over_and_the_one_that_answers_is_kept() {
    let (starting, asked) = serve(|_, _, _| Reply::Json(503, json!({"message": "no leader"}))).await;
    let (leader, _) = serve(|_, _, _| Reply::Json(200, json!([]))).await;
    let client = Client::new(vec![NOBODY, starting, leader]);
    assert_eq!(client.deployments().await, Ok(vec![]));
    assert_eq!(client.deployments().await, Ok(vec![]));
    assert_eq!(asked.lock().unwrap().len(), 1, "the second time, the leader is asked first");
}

#[tokio::test(flavor = "current_thread")]
async fn a_redirection_is_followed_within_the_stack_and_nowhere_else() {
    let (leader, _) = serve(|_, _, _| Reply::Json(200, json!([]))).await;
    let to = format!("http://{leader}/v2/deployments");
    let (follower, _) = serve(move |_, _, _| Reply::Elsewhere(to.clone())).await;
    assert_eq!(Client::new(vec![follower, leader]).deployments().await, Ok(vec![]));
    // The same, to a server that is none of the stack's.
    let (stranger, asked) = serve(|_, _, _| Reply::Json(200, json!([]))).await;
    let to = format!("http://{stranger}/v2/deployments");
    let (follower, _) = serve(move |_, _, _| Reply::Elsewhere(to.clone())).await;
    let error = Client::new(vec![follower]).deployments().await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("sends elsewhere"), "{error}");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn refusals_are_told_with_their_details_and_locks_with_their_deployments() {
    let (at, _) = serve(|method, path, _| match (method, path) {
        ("PUT", "/v2/apps/s/a/n?partialUpdate=false") => {
            Reply::Json(409, json!({"message": "App is locked", "deployments": [{"id": "d1"}]}))
        }
        ("PUT", _) => Reply::Json(
            422,
            json!({"message": "Object is not valid", "details": [{"path": "/cpus", "errors": ["must be > 0"]}]}),
        ),
        _ => Reply::Json(404, json!({"message": "App '/s/a/n' does not exist"})),
    })
    .await;
    let client = Client::new(vec![at]);
    let locked = Error::Locked { message: "App is locked".into(), deployments: vec!["d1".into()] };
    assert_eq!(client.put_app("/s/a/n", &json!({}), false).await, Err(locked));
    let error = client.put_app("/s/a/n", &json!({}), true).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Marathon refuses PUT /v2/apps/s/a/n: 422 Object is not valid; /cpus: must be > 0"
    );
    assert_eq!(client.app("/s/a/n").await, Ok(None));
    assert_eq!(client.delete_app("/s/a/n", false).await, Ok(()));
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_that_ends_in_between_is_a_passing_trouble() {
    let (at, _) = serve(|_, _, _| Reply::Gone).await;
    let error = Client::new(vec![at]).deployments().await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert!(Client::new(vec![]).deployments().await.unwrap_err().is_passing());
}

#[test]
fn the_launch_queue_is_told_in_words_that_help() {
    let item = json!({
        "app": {"id": "/s/a/n"},
        "delay": {"timeLeftSeconds": 12, "overdue": false},
        "processedOffersSummary": {"rejectSummaryLastOffers": [
            {"reason": "UnfulfilledConstraint", "declined": 0, "processed": 3},
            {"reason": "InsufficientPorts", "declined": 3, "processed": 3},
        ]},
    });
    let words = queue_words(&item);
    assert!(
        words.contains("starts it again in 12 s") && words.contains("3 of 3 offers do not fit"),
        "{words}"
    );
    assert!(words.contains("a port is taken") && !words.contains("UnfulfilledConstraint"), "{words}");
    assert_eq!(queue_words(&json!({})), "no agent has offered anything yet");
}
