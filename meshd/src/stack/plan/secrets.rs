//! Which version of each secret counts, and who has it.

use std::collections::BTreeMap;

use crate::stack::actual::{Actual, SecretFact};
use crate::stack::spec::Stack;

/// What is shown as the version of a secret that is not made yet.
pub const NOT_YET: &str = "new";

/// Where a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The newest version.
    pub version: String,
    /// A node that has it.
    pub node: String,
}

/// The newest version of each secret that any node has. A node that was away while a secret changed does not bring the
/// old one back.
pub fn holders(stack: &Stack, actual: &Actual) -> BTreeMap<String, Holder> {
    let mut newest: BTreeMap<String, (&SecretFact, &str)> = BTreeMap::new();
    for (node, report) in &actual.nodes {
        for (name, fact) in report.iter().flat_map(|report| &report.secrets) {
            let rank = |fact: &SecretFact| (fact.made_ms, fact.version.clone());
            if stack.secrets.contains_key(name)
                && newest.get(name).is_none_or(|(known, _)| rank(fact) > rank(known))
            {
                newest.insert(name.clone(), (fact, node));
            }
        }
    }
    newest
        .into_iter()
        .map(|(name, (fact, node))| (name, Holder { version: fact.version.clone(), node: node.to_owned() }))
        .collect()
}

/// The version of each secret, for a plan that makes none: what nobody has yet is [`NOT_YET`].
pub fn versions(stack: &Stack, actual: &Actual) -> BTreeMap<String, String> {
    let holders = holders(stack, actual);
    let version =
        |name: &String| holders.get(name).map_or(NOT_YET.to_owned(), |holder| holder.version.clone());
    stack.secrets.keys().map(|name| (name.clone(), version(name))).collect()
}
