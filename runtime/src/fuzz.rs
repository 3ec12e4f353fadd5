//! Fuzzing by chance: good input is bent at random, for as long as `LONGSHORE_FUZZ_SECONDS` says.
//!
//! CI gives each target a minute, beside the other suites; a desk gives it a second. Every round has a seed, and a round
//! that fails prints it: `LONGSHORE_FUZZ_SEED=<seed>` plays that round alone.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Numbers that look random (xorshift64*).
pub(crate) struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of so many, from 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or(0) % count.max(1)
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.byte()).collect()
    }
}

/// Plays rounds until the time is over.
pub(crate) fn rounds(target: &str, mut round: impl FnMut(&mut Rng)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("LONGSHORE_FUZZ_SEED") {
        return round(&mut Rng::new(seed));
    }
    let time = Duration::from_secs(number("LONGSHORE_FUZZ_SECONDS").unwrap_or(1));
    let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let (begun, mut seed) = (Instant::now(), first);
    while begun.elapsed() < time {
        let failing = Told { target, seed };
        round(&mut Rng::new(seed));
        drop(failing);
        seed = seed.wrapping_add(1);
    }
    say(&format!("fuzz {target}: {} rounds from seed {first}", seed.wrapping_sub(first)));
}

/// Prints the seed of a round that panics.
struct Told<'a> {
    target: &'a str,
    seed: u64,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&format!("fuzz {}: this round again with LONGSHORE_FUZZ_SEED={}", self.target, self.seed));
        }
    }
}

#[expect(clippy::print_stderr, reason = "what a run of the target prints")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// The pieces with some of them lost, doubled, cut, moved or with other bytes in them; most stay as they are.
pub(crate) fn bent(pieces: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    for piece in pieces {
        let mut piece = piece.clone();
        match rng.below(40) {
            0 => continue,
            1 => all.push(piece.clone()),
            2 => piece.truncate(rng.below(piece.len() + 1)),
            3 => piece.extend(rng.bytes(40)),
            4..=9 if !piece.is_empty() => {
                // Heads are where lengths and kinds are.
                let most = if rng.one_in(2) { piece.len().min(12) } else { piece.len() };
                for _ in 0..=rng.below(3) {
                    let at = rng.below(most);
                    piece[at] = if rng.one_in(2) { rng.byte() } else { piece[at] ^ (1 << rng.below(8)) };
                }
            }
            10 => all.push(rng.bytes(60)),
            11 if !all.is_empty() => all.swap_remove(rng.below(all.len())).clone_into(&mut piece),
            _ => {}
        }
        all.push(piece);
    }
    all.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_round_and_most_of_it_is_as_it_was() {
        let pieces: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n; 10]).collect();
        let play = |seed| bent(&pieces, &mut Rng::new(seed));
        assert_eq!(play(7), play(7));
        let whole = pieces.concat();
        let good = (0..1_000).filter(|seed| play(*seed) == whole).count();
        assert!((1..500).contains(&good), "{good} of 1000 are as they were");
    }
}
