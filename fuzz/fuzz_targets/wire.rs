//! What comes over sockets, as arbitrary bytes.

#![no_main]

#[path = "../../tests/support/decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((choice, input)) = bytes.split_first() {
        let decoder = &decoders::WIRE[usize::from(*choice) % decoders::WIRE.len()];
        (decoder.decode)(input);
    }
});
