//! The bytes that examples serve, and those on their disks. Guarantees bytes that repeat nowhere and are equal on each
//! run.

/// Bytes of a disk. `examples/embed-c` reads it in many requests, of which the last is short.
pub(crate) const DISK: u32 = (1 << 20) + 3 * 512;

/// Returns the words of xorshift32 from seed 1 on, little-endian.
pub(crate) fn content(bytes: u32) -> Vec<u8> {
    let mut random = 1u32;
    let words = (0..bytes / 4).flat_map(|_| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random.to_le_bytes()
    });
    words.collect()
}
