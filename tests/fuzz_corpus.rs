//! The fuzz targets' entry functions on the stored corpus, on every beginning of each file, and on mutations from a fixed
//! seed: bounded, the same in every run, and without libFuzzer.
//!
//! `FUZZ_ROUNDS=100000 cargo test --release --test fuzz_corpus` looks longer; `cargo fuzz` (see fuzz/Cargo.toml) looks better.

#[path = "../fuzz/entries.rs"]
mod entries;

use std::{fs, path::Path};

/// Mutations of each corpus file, unless `FUZZ_ROUNDS` says otherwise.
const ROUNDS: u64 = 400;

/// Mutations of each input that libFuzzer found: there are hundreds, each for a place that no other reaches.
const FOUND_ROUNDS: u64 = 16;

/// xorshift64: small, and good enough to pick octets.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|f| f.unwrap().path())
        .collect();
    names.sort();
    names.iter().map(|name| fs::read(name).unwrap()).collect()
}

/// What libFuzzer found, a line each in hexadecimal; a target may have nothing yet.
fn found(target: &str) -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/found/{target}.hex"));
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| hex::decode(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 2, 4, 0x10, 0x7F, 0x80, 0xFE, 0xFF][random.below(9)],
            3 => drop(bytes.drain(at..(at + random.below(8)).min(bytes.len()))),
            4 => {
                let copy = bytes[at..(at + random.below(16)).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let part = &other[from..(from + random.below(32)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
}

fn run(target: &str) {
    let (_, entry) = entries::TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let rounds = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let corpus = corpus(target);
    assert!(!corpus.is_empty());
    let found = found(target);
    for (i, file) in found.iter().enumerate() {
        entry(file);
        let mut random = Random(0xD1B5_4A32_D192_ED03 ^ i as u64);
        let mut bytes = file.clone();
        for _ in 0..FOUND_ROUNDS {
            mutate(&mut bytes, &found, &mut random);
            bytes.truncate(4_096);
            entry(&bytes);
        }
    }
    for (i, file) in corpus.iter().enumerate() {
        entry(file);
        for cut in 0..file.len().min(1000) {
            entry(&file[..cut]);
        }
        let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ i as u64);
        let mut bytes = file.clone();
        for round in 0..rounds {
            // Mutations of mutations, and now and then from the start again.
            if round % 16 == 0 {
                bytes.clone_from(file);
            }
            mutate(&mut bytes, &corpus, &mut random);
            bytes.truncate(70_000);
            entry(&bytes);
        }
    }
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_run_and_built() {
            let names = [$(stringify!($name)),*];
            assert_eq!(entries::TARGETS.map(|(name, _)| name), names);
            let manifest = include_str!("../fuzz/Cargo.toml");
            for name in names {
                assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
            }
        }
    };
}

targets!(open, update, capabilities, message, bfd, mrt, capture);
