//! libFuzzer target for [`meshnet_fuzz::datagram`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::datagram(bytes));
