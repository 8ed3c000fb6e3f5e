//! The operating system's side: devices, sockets, and netlink. The only place with `unsafe`.
#![allow(unsafe_code)]
