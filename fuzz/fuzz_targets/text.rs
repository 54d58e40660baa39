//! Texts, as arbitrary bytes.

#![no_main]

#[path = "../../tests/support/decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((choice, input)) = bytes.split_first() {
        let decoder = &decoders::TEXT[usize::from(*choice) % decoders::TEXT.len()];
        (decoder.decode)(input);
    }
});
