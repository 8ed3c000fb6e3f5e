//! libFuzzer target for [`meshnet_fuzz::packets::packet`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meshnet_fuzz::packets::packet(bytes));
