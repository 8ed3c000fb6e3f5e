//! libFuzzer target for [`meshnet_fuzz::invitation`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::invitation(bytes));
