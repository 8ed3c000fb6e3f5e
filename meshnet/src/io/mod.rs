//! The operating system's side: clocks, the overlay device, UDP sockets, and netlink. The only place with `unsafe`.
//!
//! | module | what it gives |
//! |---|---|
//! | [`clock`] | both clocks as [`crate::time::Now`] |
//! | [`heap`] | giving free memory back to the kernel |
//! | [`wake`] | an eventfd and a poll, so that plain threads can block and still be told to stop |
//! | [`tun`] | the overlay device: packets or super-packets in, gathered packets out |
//! | [`udp`] | underlay sockets: batches, segmentation offload, source addresses, error queue |
//! | [`netlink`] | addresses, routes, and link settings, and a watch on their changes |
#![allow(unsafe_code)]

pub mod clock;
pub mod heap;
pub mod netlink;
pub mod tun;
pub mod udp;
pub mod wake;

#[cfg(test)]
pub(crate) mod testing;
