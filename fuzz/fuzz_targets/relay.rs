//! libFuzzer target for [`meshnet_fuzz::relays::relay`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::relays::relay(bytes));
