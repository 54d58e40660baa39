//! The little of an ELF program that matters for putting it into a guest: what it runs on, and which loader it asks for.

use super::Arch;
use thiserror::Error;

/// The part of a program that is looked at: its header and its table of segments, with the loader's name behind.
pub const HEAD_LEN: usize = 64 * 1024;

const SEGMENT_LEN: usize = 56;
const INTERPRETER: u32 = 3;

/// What a program needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its loader, if it is dynamically linked.
    pub loader: Option<String>,
}

/// What a file is instead of a program for the guests.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unfit {
    /// A script, say.
    #[error("it is no ELF program")]
    NoElf,
    /// Of another word length or byte order.
    #[error("it is no 64-bit little-endian program")]
    OtherClass,
    /// What is referred to is not there.
    #[error("its ELF header is cut short")]
    Truncated,
    /// For other processors.
    #[error("it is made for {found}, the guests are {}", guests.word())]
    Foreign {
        /// The processors that it is made for.
        found: String,
        /// What it is to run on.
        guests: Arch,
    },
}

/// Reads the head of a program that is to run on `arch`.
///
/// # Errors
/// What it is instead.
pub fn read(head: &[u8], arch: Arch) -> Result<Program, Unfit> {
    if !head.starts_with(b"\x7fELF") {
        return Err(Unfit::NoElf);
    }
    let truncated = || Unfit::Truncated;
    if head.get(4..6) != Some(&[2, 1]) {
        return Err(Unfit::OtherClass);
    }
    let machine = number(head, 18, 2).ok_or_else(truncated)?;
    let found = match machine {
        62 => Some(Arch::X86_64),
        183 => Some(Arch::Aarch64),
        _ => None,
    };
    if found != Some(arch) {
        let found = found.map_or_else(|| format!("ELF machine {machine}"), |arch| arch.word().to_owned());
        return Err(Unfit::Foreign { found, guests: arch });
    }
    let table = number(head, 32, 8).ok_or_else(truncated)?;
    let count = number(head, 56, 2).ok_or_else(truncated)?;
    for at in 0..count {
        let segment =
            usize::try_from(table).ok().and_then(|table| table.checked_add(at as usize * SEGMENT_LEN));
        let segment = segment.and_then(|at| head.get(at..)?.get(..SEGMENT_LEN)).ok_or_else(truncated)?;
        if number(segment, 0, 4) == Some(u64::from(INTERPRETER)) {
            let place = |at| number(segment, at, 8).and_then(|number| usize::try_from(number).ok());
            let name = match (place(8), place(32)) {
                (Some(offset), Some(length)) => head.get(offset..).and_then(|rest| rest.get(..length)),
                _ => None,
            };
            let name = name.and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(truncated)?;
            return Ok(Program { loader: Some(name.trim_end_matches('\0').to_owned()) });
        }
    }
    Ok(Program { loader: None })
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.get(..len)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// The libraries that a loader lists for a program, as `ldd` prints them: `name => path (address)` or `path (address)`. Those
/// that the kernel provides have no path and are left out.
///
/// # Errors
/// The name of a library that was not found.
pub fn listed_libraries(list: &str) -> Result<Vec<String>, String> {
    let mut paths = Vec::new();
    for line in list.lines() {
        let found = match line.trim().split_once(" => ") {
            Some((name, found)) if found.trim() == "not found" => return Err(name.to_owned()),
            Some((_, found)) => found,
            None => line.trim(),
        };
        paths.extend(found.split(" (").next().filter(|path| path.starts_with('/')).map(str::to_owned));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, one segment that names a loader, and the name.
    fn program(machine: u16, loader: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 + SEGMENT_LEN];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[56] = 1;
        bytes[64] = INTERPRETER as u8;
        bytes[64 + 8] = (64 + SEGMENT_LEN) as u8;
        bytes[64 + 32] = loader.len() as u8 + 1;
        bytes.extend(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_program_names_its_loader() {
        let bytes = program(62, "/lib64/ld.so");
        assert_eq!(read(&bytes, Arch::X86_64), Ok(Program { loader: Some("/lib64/ld.so".to_owned()) }));
        let mut bytes = program(183, "");
        bytes[64] = 1;
        assert_eq!(read(&bytes, Arch::Aarch64), Ok(Program { loader: None }));
    }

    #[test]
    fn what_is_no_program_for_the_guests_is_described() {
        let error = |bytes: &[u8]| read(bytes, Arch::X86_64).unwrap_err().to_string();
        assert_eq!(error(b"#!/bin/sh\n"), "it is no ELF program");
        assert_eq!(error(b"\x7fELF\x01\x01"), "it is no 64-bit little-endian program");
        assert_eq!(error(&program(183, "/x")), "it is made for aarch64, the guests are x86_64");
        assert_eq!(error(&program(243, "/x")), "it is made for ELF machine 243, the guests are x86_64");
        let whole = program(62, "/lib64/ld.so");
        for length in 4..whole.len() {
            assert!(read(&whole[..length], Arch::X86_64).is_err(), "{length}");
        }
        for at in 32..whole.len() - 13 {
            let mut damaged = whole.clone();
            damaged[at] = 0xff;
            // Whatever it comes to, it comes to an end.
            let _ = read(&damaged, Arch::X86_64);
        }
    }

    #[test]
    fn libraries_are_taken_from_the_loaders_list() {
        let list =
            "\tlinux-vdso.so.1 (0x00007f)\n\tlibz.so.1 => /lib/libz.so.1 (0x01)\n\t/lib64/ld.so (0x02)\n";
        assert_eq!(listed_libraries(list), Ok(vec!["/lib/libz.so.1".to_owned(), "/lib64/ld.so".to_owned()]));
        assert_eq!(listed_libraries("\tlibx.so => not found\n"), Err("\tlibx.so".trim().to_owned()));
        assert_eq!(listed_libraries("\tstatically linked\n"), Ok(Vec::new()));
    }
}
