//! libFuzzer target for [`meshnet_fuzz::trust::bundle`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::trust::bundle(bytes));
