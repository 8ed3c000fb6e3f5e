//! Two peers and a clock, for tests of what is kept for each.

use crate::dataplane::snapshot::MemberSlot;
use crate::time::Mono;

pub(in crate::dataplane) const A: MemberSlot = MemberSlot(1);
pub(in crate::dataplane) const B: MemberSlot = MemberSlot(2);

pub(in crate::dataplane) fn at(ms: u64) -> Mono {
    Mono(ms * 1000)
}
