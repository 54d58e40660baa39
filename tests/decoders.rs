//! Every decoder is fed what it was not made for: random bytes, and what it accepts, cut, changed and stitched together. It
//! returns, with an error or a value, and allocates no more than its input justifies.
//!
//! One test, because memory is counted for the whole process. `ALLOCDB_DECODER_SEED=N` plays one case again.

#[path = "support/decoders.rs"]
mod decoders;

use cap::Cap;
use decoders::{DISK, Decoder, TEXT, WIRE};
use fastrand::Rng;
use std::alloc::System;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Inputs for each decoder.
const CASES: u64 = 10_000;

/// A case that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Names the one case to be played.
const SEED: &str = "ALLOCDB_DECODER_SEED";

/// Something that the decoder accepts, mistreated in one to six ways.
fn mistreated(samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let sample = |rng: &mut Rng| rng.choice(samples).cloned().unwrap_or_default();
    let mut bytes = sample(rng);
    for _ in 0..rng.u8(1..=6) {
        let at = rng.usize(..=bytes.len());
        let room = bytes.len() - at;
        match rng.u8(..10) {
            0 => bytes.truncate(at),
            1 if room > 0 => bytes[at] ^= 1 << rng.u8(..8),
            2 if room > 0 => bytes[at] = rng.u8(..),
            // A length or a count as large as it can be, or nearly so.
            3 if room >= 4 => {
                let huge = u32::MAX >> rng.u32(..32);
                bytes[at..at + 4].copy_from_slice(&huge.to_le_bytes());
            }
            4 if room >= 8 => {
                let huge = u64::MAX >> rng.u32(..64);
                bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            }
            5 => {
                let other = sample(rng);
                let from = rng.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            // A part of it once more.
            6 => {
                let part = bytes[at..at + rng.usize(..=room.min(200))].to_vec();
                bytes.splice(at..at, part);
            }
            7 => drop(bytes.drain(at..at + rng.usize(..=room.min(200)))),
            8 => {
                let filling: Vec<u8> = (0..rng.usize(..40)).map(|_| rng.u8(..)).collect();
                bytes.splice(at..at, filling);
            }
            // Digits, separators and line ends where texts have them.
            _ if room > 0 => bytes[at] = *rng.choice(b"0129=:,\n\r \t-+none\xff").unwrap_or(&0),
            _ => {}
        }
        bytes.truncate(64 * 1024);
    }
    bytes
}

fn input(samples: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    match seed % 8 {
        0 => (0..rng.usize(..300)).map(|_| rng.u8(..)).collect(),
        // Everything from nothing to the whole, one after the other.
        1 => {
            let sample = rng.choice(samples).cloned().unwrap_or_default();
            sample[..(seed / 8) as usize % (sample.len() + 1)].to_vec()
        }
        _ => mistreated(samples, &mut rng),
    }
}

/// Feeds one decoder with all its cases. Returns how many of them came to a value.
fn feed(decoder: &Decoder, seeds: std::ops::Range<u64>, now: &AtomicU64) -> u64 {
    let samples = (decoder.samples)();
    assert!(!samples.is_empty(), "{}: no samples", decoder.name);
    for sample in &samples {
        // An error reply is a sample as well.
        let is_refusal = sample.starts_with(b"status=error");
        assert!(
            (decoder.decode)(sample)
                || is_refusal
                || decoder.name.contains("layouts")
                || decoder.name.contains("lists"),
            "{} refuses {sample:?}",
            decoder.name
        );
    }
    let mut values = 0;
    for seed in seeds {
        now.store(seed, Ordering::Relaxed);
        let bytes = input(&samples, seed);
        let before = MEMORY.total_allocated();
        let decoded = std::panic::catch_unwind(|| (decoder.decode)(&bytes));
        let allocated = MEMORY.total_allocated() - before;
        let replay = format!("replay: {SEED}={seed} cargo test --test decoders");
        let Ok(is_value) = decoded else {
            panic!("{} panicked on {bytes:?}\n  {replay}", decoder.name);
        };
        values += u64::from(is_value);
        let justified = decoder.fixed + decoder.per_byte * bytes.len();
        assert!(
            allocated <= justified,
            "{} allocated {allocated} bytes for {} bytes of input, {justified} are justified\n  {replay}",
            decoder.name,
            bytes.len()
        );
    }
    values
}

#[test]
fn no_decoder_panics_or_takes_more_memory_than_its_input_justifies() {
    let only = std::env::var(SEED).ok().map(|seed| seed.parse::<u64>().expect("the seed is a number"));
    let seeds = only.map_or(0..CASES, |seed| seed..seed + 1);
    for decoder in WIRE.iter().chain(&DISK).chain(&TEXT) {
        let now = AtomicU64::new(seeds.start);
        let (done, is_done) = std::sync::mpsc::channel();
        let values = std::thread::scope(|scope| {
            let feeding = scope.spawn(|| {
                let values = feed(decoder, seeds.clone(), &now);
                let _ = done.send(());
                values
            });
            let mut last = now.load(Ordering::Relaxed);
            while !feeding.is_finished() && is_done.recv_timeout(LIMIT).is_err() {
                let current = now.load(Ordering::Relaxed);
                if current == last && !feeding.is_finished() {
                    // Its thread cannot be ended, so the process is.
                    eprintln!("{} hangs: {SEED}={current} cargo test --test decoders", decoder.name);
                    std::process::abort();
                }
                last = current;
            }
            feeding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // What is never accepted was not mistreated but destroyed, and shows little.
        assert!(only.is_some() || values > 0, "{} accepted none of its cases", decoder.name);
    }
}
