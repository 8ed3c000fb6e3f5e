//! The core of meshnet.
