//! Wire formats of meshnet: every datagram, control frame, and signed object, as parse and emit.
#![forbid(unsafe_code)]
