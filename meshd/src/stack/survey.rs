//! What there is of a stack: what the agents report, and what Marathon knows besides.

use super::actual::Actual;
use super::driver::marathon::{self, client::Client};
use super::fleet::Fleet;
use super::spec::Stack;

/// Asks the agents, and Marathon where one runs.
pub async fn actual(fleet: &Fleet, name: &str, stack: Option<&Stack>) -> Actual {
    let mut actual = fleet.reports(name, stack).await;
    let client = marathon_of(fleet, stack, &actual);
    marathon::look(&client, name, &mut actual, |node| fleet.address(node)).await;
    actual
}

/// A client of the stack's Marathon; one without servers where it has none.
pub fn marathon_of(fleet: &Fleet, stack: Option<&Stack>, actual: &Actual) -> Client {
    marathon::client(stack, actual, |node| fleet.address(node))
}
