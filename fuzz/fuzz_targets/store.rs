//! libFuzzer target for [`meshnet_fuzz::store::store`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::store::store(bytes));
