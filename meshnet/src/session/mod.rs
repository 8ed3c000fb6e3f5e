//! Noise handshakes, keypairs, and their timers.
