//! libFuzzer target for [`meshnet_fuzz::frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::frames(bytes));
