//! Numbers for random workloads.

/// Marsaglia's xorshift, 32 bits: the same seed makes the same run.
#[derive(Debug)]
pub struct Random(u32);

impl Random {
    /// Makes a generator. The seed may be any number except 0.
    pub const fn new(seed: u32) -> Self {
        Self(seed)
    }

    /// Returns a number below `bound`.
    pub const fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % bound
    }
}
