//! The ELF under test: flattened as a boot loader would have it, its maintenance sites, and where an address belongs.
//!
//! Guarantees: the image is the ELF's bytes but for the sites that a suppression names, each replaced by one `nop`.

use addr2line::Loader;
use object::{Object, ObjectSegment, ObjectSymbol};
use std::fmt;
use std::path::Path;

/// What an instruction means to the caches and the MMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// DCCMVAC.
    Clean,
    /// DCCMVAU: cleans to the point of unification only.
    CleanToUnification,
    /// DCIMVAC.
    Invalidate,
    /// DCCIMVAC.
    Flush,
    /// TLBIMVA, TLBIMVAIS, TLBIMVAA, TLBIMVAAIS.
    TlbPage,
    /// TLBIALL, TLBIALLIS, TLBIASID and TLBIASIDIS.
    TlbAll,
    /// DSB, in any domain.
    Dsb,
    /// DMB, in any domain: Cortex-A8 and Cortex-A9 know one.
    Dmb,
    /// A write of SCTLR.
    Sctlr,
    /// A write of TTBR0.
    Ttbr0,
    /// A write of TTBR1.
    Ttbr1,
    /// A write of TTBCR.
    Ttbcr,
    /// A write of VBAR.
    Vbar,
}

/// The operations that a kernel may forget.
pub const MAINTENANCE: [Op; 8] =
    [Op::Clean, Op::CleanToUnification, Op::Invalidate, Op::Flush, Op::TlbPage, Op::TlbAll, Op::Dsb, Op::Dmb];

/// The operation of an A32 instruction and the register it takes its value from.
pub fn decode(word: u32) -> Option<(Op, u8)> {
    if word & 0xffff_fff0 == 0xf57f_f040 || word & 0x0fff_0fff == 0x0e07_0f9a {
        return Some((Op::Dsb, 0));
    }
    if word & 0xffff_fff0 == 0xf57f_f050 || word & 0x0fff_0fff == 0x0e07_0fba {
        return Some((Op::Dmb, 0));
    }
    // MCR p15, opc1, Rt, CRn, CRm, opc2, always executed.
    if word & 0xff10_0f10 != 0xee00_0f10 {
        return None;
    }
    let (opc1, crn, crm, opc2) = ((word >> 21) & 7, (word >> 16) & 15, word & 15, (word >> 5) & 7);
    let op = match (opc1, crn, crm, opc2) {
        (0, 7, 10, 1) => Op::Clean,
        (0, 7, 11, 1) => Op::CleanToUnification,
        (0, 7, 6, 1) => Op::Invalidate,
        (0, 7, 14, 1) => Op::Flush,
        (0, 7, 10, 4) => Op::Dsb,
        (0, 8, 3 | 5 | 6 | 7, 1 | 3) => Op::TlbPage,
        (0, 8, 3 | 5 | 6 | 7, 0 | 2) => Op::TlbAll,
        (0, 1, 0, 0) => Op::Sctlr,
        (0, 2, 0, 0) => Op::Ttbr0,
        (0, 2, 0, 1) => Op::Ttbr1,
        (0, 2, 0, 2) => Op::Ttbcr,
        (0, 12, 0, 0) => Op::Vbar,
        _ => return None,
    };
    Some((op, ((word >> 12) & 15) as u8))
}

/// Whether a TLB operation is in the inner shareable form: UNDEFINED without the Multiprocessing Extensions.
pub const fn is_broadcast(word: u32) -> bool {
    word & 15 == 3
}

/// `nop`.
const NOP: u32 = 0xe320_f000;

/// A loaded ELF.
#[derive(Clone)]
pub struct Image {
    /// Bytes from the lowest address on, without .bss.
    pub bytes: Vec<u8>,
    /// The linked address of the first.
    pub base: u32,
    symbols: Vec<(u32, u32, String)>,
}

impl Image {
    /// Reads an ELF.
    pub fn load(path: &Path) -> Result<Self, String> {
        let data = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let elf = object::File::parse(&*data).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut bytes = Vec::new();
        let base = elf.segments().map(|segment| segment.address() as u32).min().ok_or("no segment to load")?;
        for segment in elf.segments() {
            let at = (segment.address() as u32 - base) as usize;
            let content = segment.data().map_err(|error| error.to_string())?;
            if !content.is_empty() {
                bytes.resize(bytes.len().max(at + content.len()), 0);
                bytes[at..at + content.len()].copy_from_slice(content);
            }
        }
        let mut symbols: Vec<_> = elf
            .symbols()
            .filter(|symbol| symbol.is_definition() && symbol.kind() == object::SymbolKind::Text)
            .map(|symbol| (symbol.address() as u32, symbol.size() as u32, symbol.name().unwrap_or("?").to_owned()))
            .collect();
        symbols.sort_unstable();
        Ok(Self { bytes, base, symbols })
    }

    /// A program without symbols.
    #[cfg(test)]
    pub fn of_words(base: u32, words: impl Iterator<Item = u32>) -> Self {
        Self { bytes: words.flat_map(u32::to_le_bytes).collect(), base, symbols: Vec::new() }
    }

    /// Words of the image with their linked addresses.
    fn words(&self) -> impl Iterator<Item = (u32, u32)> {
        self.bytes
            .chunks_exact(4)
            .enumerate()
            .map(|(n, word)| (self.base + 4 * n as u32, u32::from_le_bytes(word.try_into().expect("four bytes"))))
    }

    /// Linked addresses of the instructions that do `op`, inside functions.
    pub fn sites(&self, op: Op) -> Vec<u32> {
        let found = self.words().filter(|&(_, word)| decode(word).is_some_and(|(found, _)| found == op));
        found.map(|(at, _)| at).filter(|&at| self.symbol(at).is_some()).collect()
    }

    /// Replaces an instruction by a `nop`.
    pub fn suppress(&mut self, at: u32) {
        let offset = (at - self.base) as usize;
        self.bytes[offset..offset + 4].copy_from_slice(&NOP.to_le_bytes());
    }

    fn symbol(&self, at: u32) -> Option<&(u32, u32, String)> {
        let next = self.symbols.partition_point(|symbol| symbol.0 <= at);
        self.symbols.get(next.checked_sub(1)?).filter(|symbol| symbol.1 == 0 || at < symbol.0 + symbol.1)
    }
}

/// A function and a line of source.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Its name, demangled, without its crate's hash.
    pub function: String,
    /// File and line, from the folder of the crate on, if known.
    pub line: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.function, self.line.as_deref().unwrap_or("?"))
    }
}

/// What source an image's addresses belong to.
pub struct Places {
    loader: Option<Loader>,
}

impl Places {
    /// Of an ELF.
    pub fn load(path: &Path) -> Self {
        Self { loader: Loader::new(path).ok() }
    }

    /// The function and the source line of a linked address, innermost inlined call first.
    pub fn find(&self, image: &Image, at: u32) -> Vec<Place> {
        let mut calls = Vec::new();
        if let Some(loader) = &self.loader
            && let Ok(mut frames) = loader.find_frames(u64::from(at))
        {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.demangle().ok().map(|name| name.into_owned()));
                let line = frame.location.and_then(|place| {
                    let file = place.file?;
                    // From the last `src/` or `tests/` with one folder before it.
                    let from = file.rfind("/src/").map_or(0, |end| file[..end].rfind('/').map_or(0, |at| at + 1));
                    Some(format!("{}:{}", &file[from..], place.line.unwrap_or(0)))
                });
                calls.push(Place { function: name.unwrap_or_else(|| "?".into()), line });
            }
        }
        if calls.is_empty() {
            let function = image.symbol(at).map_or_else(
                || "?".into(),
                |(start, _, name)| {
                    format!("{}+{:#x}", addr2line::demangle_auto(name.as_str().into(), None), at - start)
                },
            );
            calls.push(Place { function, line: None });
        }
        calls
    }

    /// The same as text, the innermost five.
    pub fn tell(&self, image: &Image, at: u32) -> String {
        let calls: Vec<String> = self.find(image, at).iter().take(5).map(Place::to_string).collect();
        calls.join("\n      inlined in ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_told_by_their_encodings() {
        let known = [
            (0xee07_3f3a, Some((Op::Clean, 3))),
            (0xee07_0f3b, Some((Op::CleanToUnification, 0))),
            (0xee07_1f36, Some((Op::Invalidate, 1))),
            (0xee08_cf33, Some((Op::TlbPage, 12))),
            (0xee08_0f17, Some((Op::TlbAll, 0))),
            (0xf57f_f04f, Some((Op::Dsb, 0))),
            (0xf57f_f05b, Some((Op::Dmb, 0))),
            // A read of SCTLR.
            (0xee11_0f10, None),
        ];
        for (word, op) in known {
            assert_eq!(decode(word), op, "{word:#010x}");
        }
    }
}
