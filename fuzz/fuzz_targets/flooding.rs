//! libFuzzer target for [`meshnet_fuzz::gossip::flooding`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::gossip::flooding(bytes));
