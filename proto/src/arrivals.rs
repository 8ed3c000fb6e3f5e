//! How many data packets came, by kind: what a receiver tells the sender, who compares it with what it has sent.
//!
//! A kind is a lane and a length, roughly: whatever is lost of one flow or of one length only is lost of a kind.

use crate::Error;
use crate::codec::{Reader, Writer};

/// Kinds of one lane, by length.
pub const LENGTHS: usize = 4;
/// Lanes that are told apart: by their number modulo this.
pub const LANES: usize = 4;
/// All kinds.
pub const KINDS: usize = LANES * LENGTHS;
/// The longest inner packets of all kinds but the last, in bytes.
const LONGEST: [usize; LENGTHS - 1] = [128, 512, 1200];

/// Packets of each kind, modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Arrivals(pub [u32; KINDS]);

impl Arrivals {
    /// Which of a lane's kinds an inner packet of `len` bytes is.
    #[inline]
    pub fn length(len: usize) -> usize {
        LONGEST.iter().filter(|longest| len > **longest).count()
    }

    /// The kind of that number on the lane with this number.
    #[inline]
    pub fn kind(lane: usize, length: usize) -> usize {
        lane % LANES * LENGTHS + length % LENGTHS
    }

    /// Counts packets of one lane.
    pub fn add(&mut self, lane: usize, packets: &[u32; LENGTHS]) {
        for (length, packets) in packets.iter().enumerate() {
            let count = &mut self.0[Arrivals::kind(lane, length)];
            *count = count.wrapping_add(*packets);
        }
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Arrivals) -> Arrivals {
        Arrivals(std::array::from_fn(|kind| self.0[kind].wrapping_sub(earlier.0[kind])))
    }

    /// With what `other` counted.
    #[must_use]
    pub fn plus(&self, other: &Arrivals) -> Arrivals {
        Arrivals(std::array::from_fn(|kind| self.0[kind].wrapping_add(other.0[kind])))
    }

    /// Packets of all kinds.
    pub fn total(&self) -> u32 {
        self.0.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    pub(crate) fn emit(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|count| out.put_u32(*count));
    }

    pub(crate) fn parse(reader: &mut Reader<'_>) -> Result<Arrivals, Error> {
        let mut counts = [0; KINDS];
        for count in &mut counts {
            *count = reader.u32()?;
        }
        Ok(Arrivals(counts))
    }
}
