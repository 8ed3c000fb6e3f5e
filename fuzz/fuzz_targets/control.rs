//! libFuzzer target for [`meshnet_fuzz::files::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::files::control(bytes));
