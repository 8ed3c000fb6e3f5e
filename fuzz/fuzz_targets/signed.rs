//! libFuzzer target for [`meshnet_fuzz::signed`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::signed(bytes));
