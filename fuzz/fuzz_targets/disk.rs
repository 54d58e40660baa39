//! What comes from files in binary form, as arbitrary bytes.

#![no_main]

#[path = "../../tests/support/decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((choice, input)) = bytes.split_first() {
        let decoder = &decoders::DISK[usize::from(*choice) % decoders::DISK.len()];
        (decoder.decode)(input);
    }
});
