//! Transport ciphers, replay windows, and key derivation.
