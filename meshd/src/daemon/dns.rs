//! The configured endpoints as addresses: names are looked up, and looked up again, beside the daemon's loop.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, info};

use crate::config::HostPort;

/// Time from one look-up to the next while all goes well.
const REFRESH: Duration = Duration::from_secs(300);
/// Time to the next look-up after the first failure; doubled on each, up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(5);
/// A look-up that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(20);
/// Most addresses kept of one name.
const MAX_ADDRESSES: usize = 4;

/// Keeps the addresses of a set of endpoints up to date.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Sender<Vec<HostPort>>,
    found: watch::Receiver<Vec<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Resolver {
    /// Starts with `endpoints`. Literal addresses are there at once. `rng` spreads the look-ups in time.
    pub fn start(endpoints: Vec<HostPort>, rng: StdRng) -> Resolver {
        let (found_tx, found) = watch::channel(literals(&endpoints));
        let (wanted, wanted_rx) = watch::channel(endpoints);
        let task = tokio::spawn(run(wanted_rx, found_tx, rng));
        Resolver { wanted, found, task }
    }

    /// Replaces the endpoints, or looks the same ones up again at once: after a reload or a change of network.
    pub fn set(&self, endpoints: Vec<HostPort>) {
        // The task ends only with us.
        let _ = self.wanted.send(endpoints);
    }

    /// The addresses known now, in the endpoints' order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.found.borrow().clone()
    }

    /// Waits until the addresses have changed, and gives them. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Vec<SocketAddr> {
        if self.found.changed().await.is_err() {
            // The task is gone only when the runtime is on its way out.
            std::future::pending::<()>().await;
        }
        self.found.borrow_and_update().clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut wanted: watch::Receiver<Vec<HostPort>>,
    found: watch::Sender<Vec<SocketAddr>>,
    mut rng: StdRng,
) {
    let mut known: Vec<(HostPort, Vec<SocketAddr>)> = Vec::new();
    let mut failures = 0;
    loop {
        let endpoints = wanted.borrow_and_update().clone();
        let whole = look_up(&endpoints, &mut known).await;
        failures = if whole { 0 } else { failures + 1 };
        let addresses = in_order(&endpoints, &known);
        found.send_if_modified(|old| {
            let differs = *old != addresses;
            if differs {
                info!(?addresses, "configured endpoints");
                *old = addresses;
            }
            differs
        });
        let names = endpoints.iter().any(|endpoint| endpoint.literal().is_none());
        tokio::select! {
            () = tokio::time::sleep(pause(failures, &mut rng)), if names => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks all names up side by side and updates `known`; what fails keeps its last addresses. Tells whether all went
/// well.
async fn look_up(endpoints: &[HostPort], known: &mut Vec<(HostPort, Vec<SocketAddr>)>) -> bool {
    let mut running = JoinSet::new();
    known.retain(|(endpoint, _)| endpoints.contains(endpoint));
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.literal().is_none()).cloned() {
        running.spawn(async move {
            let query = tokio::net::lookup_host((endpoint.host.clone(), endpoint.port));
            let answer = match tokio::time::timeout(LIMIT, query).await {
                Ok(Ok(addresses)) => Ok(addresses.collect::<BTreeSet<SocketAddr>>()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".into()),
            };
            (endpoint, answer)
        });
    }
    let mut whole = true;
    while let Some(done) = running.join_next().await {
        let Ok((endpoint, answer)) = done else { continue };
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                let addresses = addresses.into_iter().take(MAX_ADDRESSES).collect();
                known.retain(|(other, _)| *other != endpoint);
                known.push((endpoint, addresses));
            }
            Ok(_) => {
                debug!(%endpoint, "the name has no addresses");
                whole = false;
            }
            Err(error) => {
                debug!(%endpoint, error, "cannot look the name up");
                whole = false;
            }
        }
    }
    whole
}

fn in_order(endpoints: &[HostPort], known: &[(HostPort, Vec<SocketAddr>)]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for endpoint in endpoints {
        let of_name = known.iter().find(|(other, _)| other == endpoint).map_or(&[][..], |(_, found)| found);
        for address in endpoint.literal().iter().chain(of_name) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
    }
    addresses
}

fn literals(endpoints: &[HostPort]) -> Vec<SocketAddr> {
    in_order(endpoints, &[])
}

/// With a tenth of jitter, so that a fleet does not ask its name server in step.
fn pause(failures: u32, rng: &mut StdRng) -> Duration {
    let base = match failures {
        0 => REFRESH,
        _ => RETRY.saturating_mul(1 << (failures - 1).min(8)).min(REFRESH),
    };
    base.mul_f64(rng.random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn endpoints(list: &[&str]) -> Vec<HostPort> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn literal_addresses_need_no_look_up_and_names_follow() {
        let mut resolver = Resolver::start(
            endpoints(&["192.0.2.1:7", "localhost:9", "[2001:db8::1]:8"]),
            StdRng::seed_from_u64(1),
        );
        assert_eq!(resolver.addresses().len(), 2);
        let found = tokio::time::timeout(LIMIT, resolver.changed()).await.unwrap();
        assert_eq!(found.first(), Some(&"192.0.2.1:7".parse().unwrap()));
        assert!(found.iter().any(|address| address.ip().is_loopback() && address.port() == 9), "{found:?}");
        resolver.set(endpoints(&["192.0.2.2:7"]));
        let found = tokio::time::timeout(LIMIT, resolver.changed()).await.unwrap();
        assert_eq!(found, ["192.0.2.2:7".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_name_that_fails_keeps_its_last_addresses() {
        let name: HostPort = "name.invalid:7".parse().unwrap();
        let mut known = vec![(name.clone(), vec!["192.0.2.9:7".parse().unwrap()])];
        assert!(!look_up(std::slice::from_ref(&name), &mut known).await);
        assert_eq!(in_order(&[name], &known), ["192.0.2.9:7".parse().unwrap()]);
    }

    #[test]
    fn pauses_grow_with_failures_up_to_the_refresh() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut pause = |failures| pause(failures, &mut rng);
        assert!(pause(1) < Duration::from_secs(6));
        let third = pause(3);
        assert!(third > Duration::from_secs(17) && third < Duration::from_secs(23));
        assert!(pause(60) <= REFRESH.mul_f64(1.1));
    }
}
