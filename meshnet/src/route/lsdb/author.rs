//! Making this node's own record: when its content changed, and before it gets stale at the others.

use std::time::Duration;

use proto::id::{BootEpoch, Seq};
use proto::record::{Link, Record};
use proto::signed::Signed;

use super::{Entry, Lsdb, Version};
use crate::route::limit::TokenBucket;
use crate::time::{Mono, Now};

/// How often this node changes its own record, with room to what others accept from it.
const CHANGES: TokenBucket = TokenBucket::new(8, Duration::from_secs(1));

/// A measured cost replaces the announced one only when it is off by more than this part of it …
const COST_TOLERANCE: f64 = 0.25;

/// … and by more than this.
const COST_TOLERANCE_US: u32 = 1000;

/// What [`Lsdb::author`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authored {
    /// A new record is in the database, to be passed on.
    New,
    /// The content is as announced, and recent enough.
    Unchanged,
    /// Changes come too fast; [`Lsdb::poll_timeout`] tells when to try again.
    Later,
    /// The content does not fit into a record; the old one stays.
    TooLarge,
}

/// State of authoring.
#[derive(Clone, Debug)]
pub(super) struct Author {
    /// The next record has at least this version.
    next: Version,
    /// The stored record must be replaced even if its content is right.
    superseded: bool,
    changes: TokenBucket,
    held_until: Option<Mono>,
}

impl Author {
    pub(super) fn new(boot: BootEpoch) -> Self {
        Self { next: Version { boot, seq: Seq(0) }, superseded: false, changes: CHANGES, held_until: None }
    }

    /// Makes the next own record newer than `version`, which others hold.
    pub(super) fn exceed(&mut self, version: Version) {
        self.next = self.next.max(version.next());
        self.superseded = true;
    }

    /// When to author next without a change of content.
    pub(super) fn due(&self, own: Option<&Entry>, refresh: Duration) -> Option<Mono> {
        let refresh = own.map(|own| own.received + refresh);
        [refresh, self.held_until].into_iter().flatten().min()
    }
}

impl Lsdb {
    /// Makes a new own record where `content` differs from the announced one, where that gets old, or where others hold a
    /// newer one from before a loss of state.
    ///
    /// The identifying fields of `content` (mesh, member, boot, seq, created) are set here. Link costs that differ little
    /// from the announced ones are left as announced, so that jitter in measurements floods nothing. `sign` makes the
    /// identity's signature.
    pub fn author(
        &mut self,
        now: Now,
        content: Record,
        sign: impl FnOnce(Record) -> Result<Signed<Record>, proto::Error>,
    ) -> Authored {
        let mut draft = content;
        draft.mesh = self.mesh;
        draft.member = self.me;
        let old = self.entries.get(&self.me);
        if let Some(old) = old {
            let announced = old.record();
            settle_costs(&mut draft.links, &announced.links);
            let (boot, seq, created_s) = (announced.boot, announced.seq, announced.created_s);
            let same = announced == Record { boot, seq, created_s, ..draft.clone() };
            if same && old.age(now.mono) < self.refresh() && !self.author.superseded {
                self.author.held_until = None;
                return Authored::Unchanged;
            }
        }
        let ready_at = self.author.changes.ready_at(now.mono);
        if ready_at > now.mono {
            self.author.held_until = Some(ready_at);
            return Authored::Later;
        }
        self.author.held_until = None;
        let version = self.author.next;
        draft.boot = version.boot;
        draft.seq = version.seq;
        draft.created_s = now.wall.seconds();
        let Ok(signed) = sign(draft) else { return Authored::TooLarge };
        self.author.changes.take(now.mono);
        self.author.next = version.next();
        self.author.superseded = false;
        self.store(now.mono, signed);
        Authored::New
    }
}

/// Replaces costs that differ little from the announced ones by those.
fn settle_costs(links: &mut [Link], announced: &[Link]) {
    for link in links {
        let Some(old) = announced.iter().find(|old| old.member == link.member) else { continue };
        let off = link.cost_us.abs_diff(old.cost_us);
        if off <= COST_TOLERANCE_US || f64::from(off) <= f64::from(old.cost_us) * COST_TOLERANCE {
            link.cost_us = old.cost_us;
        }
    }
}
