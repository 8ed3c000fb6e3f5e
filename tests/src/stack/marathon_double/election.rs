//! Leaders: whoever has the lowest number among a node's ephemeral children.

use super::zookeeper::{EPHEMERAL, SEQUENTIAL, Zookeeper};

/// A candidate.
#[derive(Clone)]
pub(super) struct Candidate {
    zookeeper: Zookeeper,
    path: String,
    prefix: &'static str,
    own: String,
}

impl Candidate {
    /// Stands for election under `path` with `data`.
    pub(super) fn stand(zookeeper: &Zookeeper, path: &str, prefix: &'static str, data: &str) -> Candidate {
        zookeeper.make(path);
        let flags = EPHEMERAL | SEQUENTIAL;
        let made = zookeeper.create(&format!("{path}/{prefix}"), data.as_bytes(), flags);
        let own = made.expect("a candidate's node can be made");
        Candidate { zookeeper: zookeeper.clone(), path: path.into(), prefix, own }
    }

    /// The leader's data, if there is one, and whether it is this one.
    pub(super) fn leader(&self) -> Option<(String, bool)> {
        let names = self.zookeeper.children(&self.path);
        let first = names.iter().find(|name| name.starts_with(self.prefix))?;
        let path = format!("{}/{first}", self.path);
        let data = self.zookeeper.get(&path)?;
        Some((String::from_utf8_lossy(&data).into_owned(), path == self.own))
    }
}
