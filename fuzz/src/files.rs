//! What a daemon reads beside the network: the files of its state directory, and requests on its control socket.

use meshd::api::server::read_request;
use meshd::api::{Access, Answer, Line, Request, VERSION};
use meshd::state::{Damage, Kind, container};

/// A state file of the kind that the first byte chooses: the rest as the whole file, and as the payload of a file that is
/// sound around it.
pub fn key_file(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let kind = Kind::ALL[usize::from(*choice) % Kind::ALL.len()];
    settles(kind, rest);
    settles(kind, container::encode(kind.word(), rest).as_bytes());
    if let Ok(text) = kind.read_back(rest) {
        let other = Kind::ALL[(usize::from(*choice) + 1) % Kind::ALL.len()];
        assert_eq!(other.read_back(text.as_bytes()).err(), Some(Damage::OtherKind));
    }
}

/// What is read is written in a form that is read as the same; a file of the old form may become one of the new.
fn settles(kind: Kind, file: &[u8]) {
    let Ok(written) = kind.read_back(file) else { return };
    let again = kind.read_back(written.as_bytes());
    assert!(again.is_ok_and(|again| *again == *written), "{kind:?} reads back as another file");
}

/// Lines on the control socket, by somebody who may only look, and by somebody who may do anything.
pub fn control(bytes: &[u8]) {
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let (looking, doing) = (read_request(line, Access::Read), read_request(line, Access::Admin));
        match (looking, doing) {
            (Ok(request), same) => {
                assert_eq!(request.needs(), Access::Read);
                assert!(same.is_ok_and(|same| reads_back(&same) && same == request));
            }
            (Err(_), Ok(request)) => assert!(request.needs() > Access::Read && reads_back(&request)),
            (Err(one), Err(other)) => assert_eq!(one, other),
        }
        // What a client makes of an answer.
        if let Ok(answer) = serde_json::from_slice::<Line<Answer>>(line)
            && let Ok(text) = serde_json::to_string(&answer)
        {
            assert!(serde_json::from_str::<Line<Answer>>(&text).is_ok());
        }
    }
}

fn reads_back(request: &Request) -> bool {
    let line = serde_json::to_vec(&Line { v: VERSION, body: request.clone() });
    line.is_ok_and(|line| read_request(&line, Access::Admin).as_ref() == Ok(request))
}

/// Inputs to begin with: a payload, and a whole file, of each kind.
pub(crate) fn key_file_seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        // In use 2, cut 0, one retired key, then two keys with the first bytes of an epoch each.
        let key = |number: u8| [&[0, 0, 0, number][..], &[number; 32], &[0, 3, 1, 2, 3]].concat();
        let rotating = [&[255, 255, 255, 255, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1][..], &[8; 32], &key(1), &key(2)];
        let payload = match kind {
            Kind::Transport => rotating.concat(),
            Kind::Boot | Kind::Floor => vec![0, 0, 0, 0, 1, 2, 3, 4],
            Kind::Rollover => [&[1, 0][..], &[3; 32], &[1], &[4; 32], &[0; 16], &[5; 32]].concat(),
            Kind::Pending => [&[1; 8][..], &[2; 32], &[3; 32], &[4; 20]].concat(),
            Kind::Chain | Kind::Certificate | Kind::Records | Kind::Revocations => vec![0, 2, 7, 7, 0, 1, 9],
            _ => vec![7; 32],
        };
        let choice = [number as u8];
        let whole = container::encode(kind.word(), &payload);
        seeds.push((format!("{}-payload", kind.word()), [&choice, &payload[..]].concat()));
        seeds.push((format!("{}-file", kind.word()), [&choice, whole.as_bytes()].concat()));
    }
    seeds
}

/// Inputs to begin with: a line for most requests, and some answers.
pub(crate) fn control_seeds() -> Vec<(String, Vec<u8>)> {
    let lines = [
        r#"{"v":1,"verb":"status"}"#,
        r#"{"v":1,"verb":"why","peer":"b"}"#,
        r#"{"v":1,"verb":"events","after":0}"#,
        r#"{"v":1,"verb":"ping","peer":"10.99.0.2","timeout_ms":1000}"#,
        r#"{"v":1,"verb":"identify","address":"10.99.0.2"}"#,
        r#"{"v":1,"verb":"rotate-keys","stolen":false}"#,
        r#"{"v":1,"verb":"plan-keys","without":["b","c"]}"#,
        r#"{"v":1,"verb":"revoke","target":"b","reason":1,"cutoff_s":1760000000,"myself":false}"#,
        r#"{"v":1,"verb":"rotate-authority","patience_s":60,"without":[]}"#,
        r#"{"v":1,"verb":"recover-authority","bundle":"AQU="}"#,
        r#"{"v":1,"answer":"done","notes":["n"]}"#,
        r#"{"v":1,"answer":"pong","peer":"b","rtt_ms":0.5,"path":null}"#,
        r#"{"v":1,"answer":"error","code":1,"message":"no"}"#,
    ];
    let numbered = lines.iter().enumerate();
    numbered.map(|(number, line)| (format!("line-{number}"), format!("{line}\n").into_bytes())).collect()
}
