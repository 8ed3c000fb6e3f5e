//! A watch on address, link, and route changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::NetlinkError;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Tells that the machine's network changed. What comes between two looks is one change: nothing piles up. The caller
/// waits a little after the first, since changes come in flocks.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Watch {
    /// Starts watching, in the network namespace of the calling thread. Changes on interface `ignore` (the overlay's
    /// own) are not told.
    ///
    /// # Errors
    /// [`NetlinkError::Connect`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(ignore: Option<u32>) -> Result<Watch, NetlinkError> {
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Connect)?;
        let shared = Arc::new(Shared::default());
        let teller = shared.clone();
        let reader = async move {
            while let Some((message, _)) = messages.next().await {
                teller.tell(classify(&message.payload, ignore));
            }
            teller.tell(Changes::ENDED);
        };
        Ok(Watch { shared, tasks: [tokio::spawn(connection), tokio::spawn(reader)] })
    }

    /// Waits for the next change. Cancelling loses nothing.
    pub async fn changed(&mut self) -> Changes {
        loop {
            let changes = Changes(self.shared.pending.swap(0, Ordering::AcqRel));
            if changes != Changes::NONE {
                return changes;
            }
            self.shared.notify.notified().await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What changed since the last look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changes(u8);

impl Changes {
    const NONE: Changes = Changes(0);
    const LINKS: Changes = Changes(1);
    const ADDRESSES: Changes = Changes(2);
    const ROUTES: Changes = Changes(4);
    const ALL: Changes = Changes(7);
    const ENDED: Changes = Changes(15);

    /// An interface came, went, or changed its state.
    pub fn links(self) -> bool {
        self.0 & Changes::LINKS.0 != 0
    }

    /// An address came or went.
    pub fn addresses(self) -> bool {
        self.0 & Changes::ADDRESSES.0 != 0
    }

    /// A route came or went.
    pub fn routes(self) -> bool {
        self.0 & Changes::ROUTES.0 != 0
    }

    /// The watch is over (the kernel closed the socket): nothing will be told any more; make a new one.
    pub fn ended(self) -> bool {
        self == Changes::ENDED
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: AtomicU8,
    notify: Notify,
}

impl Shared {
    fn tell(&self, changes: Changes) {
        if changes != Changes::NONE {
            self.pending.fetch_or(changes.0, Ordering::AcqRel);
            self.notify.notify_one();
        }
    }
}

fn classify(payload: &NetlinkPayload<RouteNetlinkMessage>, ignore: Option<u32>) -> Changes {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        // The socket's buffer ran over: something changed, nobody knows what.
        NetlinkPayload::Overrun(_) => return Changes::ALL,
        _ => return Changes::NONE,
    };
    let (changes, index) = match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            (Changes::LINKS, Some(link.header.index))
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            (Changes::ADDRESSES, Some(address.header.index))
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            (Changes::ROUTES, output_of(route))
        }
        _ => return Changes::NONE,
    };
    if index.is_some() && index == ignore { Changes::NONE } else { changes }
}

fn output_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::tests::with_interface;
    use super::*;
    use crate::io::testing::{add_interface, ip};

    const SOON: Duration = Duration::from_secs(5);

    /// Everything told until `wanted` was, or a panic after some seconds.
    async fn until(watch: &mut Watch, wanted: impl Fn(Changes) -> bool) {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let changes = tokio::time::timeout_at(deadline, watch.changed()).await.expect("a change is told");
            if wanted(changes) {
                return;
            }
        }
    }

    /// Everything told until nothing was for this long. Twice: where this thread had no time for so long, the wait ends before
    /// what the kernel said meanwhile is read.
    async fn said_within(watch: &mut Watch, quiet: Duration) -> Changes {
        let mut all = Changes::NONE;
        for _ in 0..2 {
            while let Ok(changes) = timeout(quiet, watch.changed()).await {
                all = Changes(all.0 | changes.0);
            }
        }
        all
    }

    #[test]
    fn links_addresses_and_routes_are_told_and_the_overlay_is_not() {
        with_interface(|_, index| async move {
            let mut watch = Watch::new(Some(index)).unwrap();
            add_interface("lan0");
            until(&mut watch, Changes::links).await;
            // Addresses of IPv6 come by themselves, when the kernel finds the time.
            for end in ["lan0", "far-lan0", "net0", "far-net0"] {
                ip(&format!("link set {end} addrgenmode none"));
            }
            ip("link set lan0 up");
            ip("addr add 192.0.2.1/24 dev lan0");
            until(&mut watch, Changes::addresses).await;
            ip("route add 198.51.100.0/24 via 192.0.2.2");
            until(&mut watch, Changes::routes).await;
            ip("link set net0 up");
            // Wait until the flock is over, then touch only the overlay's interface.
            said_within(&mut watch, Duration::from_millis(500)).await;
            ip("addr add 10.99.0.1/16 dev net0");
            ip("route add 10.1.0.0/16 dev net0");
            let told = said_within(&mut watch, Duration::from_millis(300)).await;
            // What the kernel says late of an interface's carrier is no matter here.
            assert!(!told.addresses() && !told.routes(), "{told:?}");
        });
    }
}
