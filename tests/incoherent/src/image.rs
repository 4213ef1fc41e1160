//! The ELF under test: flattened as a boot loader would have it, its maintenance sites, and where an address belongs.
//!
//! Guarantees: the image is the ELF's bytes but for the sites that a suppression names, each replaced by one `nop`.

use crate::model::{Boot, Model, RAM};
use addr2line::Loader;
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile32, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol};
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
    /// DSB.
    Dsb,
    /// DMB.
    Dmb,
    /// A write of SCTLR.
    Sctlr,
    /// A write of TTBR0.
    Ttbr0,
    /// A write of TTBR1.
    Ttbr1,
    /// A write of CONTEXTIDR.
    Contextidr,
    /// A write of TTBCR.
    Ttbcr,
    /// A write of VBAR.
    Vbar,
    /// DCISW.
    InvalidateBySet,
    /// DCCSW.
    CleanBySet,
    /// DCCISW.
    FlushBySet,
    /// A write of ACTLR.
    Actlr,
    /// A read of ISR.
    Isr,
    /// CLREX.
    Clrex,
    /// LDREX and its kin.
    LoadExclusive,
    /// STREX and its kin.
    StoreExclusive,
}

/// The operations that a kernel may forget.
pub const MAINTENANCE: [Op; 8] =
    [Op::Clean, Op::CleanToUnification, Op::Invalidate, Op::Flush, Op::TlbPage, Op::TlbAll, Op::Dsb, Op::Dmb];

/// The option of a barrier for all accesses of the whole system, as the cp15 forms are.
pub const SYSTEM: u8 = 15;

/// The operation of an A32 instruction, whatever its condition, and the register it takes its value from; for a
/// barrier, its option; for a store of the exclusive kind, the register that says whether it went.
pub fn decode(word: u32) -> Option<(Op, u8)> {
    let option = (word & 15) as u8;
    match word & 0xffff_fff0 {
        0xf57f_f040 => return Some((Op::Dsb, option)),
        0xf57f_f050 => return Some((Op::Dmb, option)),
        0xf57f_f010 => return Some((Op::Clrex, option)),
        _ if word >> 28 == 0xf => return None,
        _ => {}
    }
    let register = ((word >> 12) & 15) as u8;
    match word & 0x0f90_0ff0 {
        0x0190_0f90 => return Some((Op::LoadExclusive, register)),
        0x0180_0f90 => return Some((Op::StoreExclusive, register)),
        _ => {}
    }
    if word & 0x0fff_0fff == 0x0e1d_0f50 {
        return Some((Op::Isr, register));
    }
    // MCR p15, opc1, Rt, CRn, CRm, opc2.
    if word & 0x0f10_0f10 != 0x0e00_0f10 {
        return None;
    }
    let (opc1, crn, crm, opc2) = ((word >> 21) & 7, (word >> 16) & 15, word & 15, (word >> 5) & 7);
    let op = match (opc1, crn, crm, opc2) {
        (0, 7, 10, 1) => Op::Clean,
        (0, 7, 11, 1) => Op::CleanToUnification,
        (0, 7, 6, 1) => Op::Invalidate,
        (0, 7, 14, 1) => Op::Flush,
        (0, 7, 10, 4) => return Some((Op::Dsb, SYSTEM)),
        (0, 7, 10, 5) => return Some((Op::Dmb, SYSTEM)),
        (0, 8, 3 | 5 | 6 | 7, 1 | 3) => Op::TlbPage,
        (0, 8, 3 | 5 | 6 | 7, 0 | 2) => Op::TlbAll,
        (0, 1, 0, 0) => Op::Sctlr,
        (0, 2, 0, 0) => Op::Ttbr0,
        (0, 2, 0, 1) => Op::Ttbr1,
        (0, 2, 0, 2) => Op::Ttbcr,
        (0, 13, 0, 1) => Op::Contextidr,
        (0, 12, 0, 0) => Op::Vbar,
        (0, 7, 6, 2) => Op::InvalidateBySet,
        (0, 7, 10, 2) => Op::CleanBySet,
        (0, 7, 14, 2) => Op::FlushBySet,
        (0, 1, 0, 1) => Op::Actlr,
        _ => return None,
    };
    Some((op, register))
}

/// Whether an instruction's condition holds with these flags (ARM ARM A8.3).
pub const fn passes(word: u32, cpsr: u32) -> bool {
    let (n, z, c, v) = (cpsr >> 31 & 1 != 0, cpsr >> 30 & 1 != 0, cpsr >> 29 & 1 != 0, cpsr >> 28 & 1 != 0);
    let holds = match word >> 29 & 7 {
        0 => z,
        1 => c,
        2 => n,
        3 => v,
        4 => c && !z,
        5 => n == v,
        6 => n == v && !z,
        _ => return true,
    };
    holds != (word >> 28 & 1 != 0)
}

/// An instruction as a program on one of several cores has it: what the emulator would say of the core comes from a
/// register that nobody uses. MPIDR is read from TPIDRURO, and ISR from TPIDRURW.
pub const fn of_many_cores(word: u32) -> u32 {
    match word & 0x0fff_0fff {
        0x0e10_0fb0 => word & 0xf000_f000 | 0x0e1d_0f70,
        0x0e1c_0f11 => word & 0xf000_f000 | 0x0e1d_0f50,
        _ => word,
    }
}

/// Whether a TLB operation is of one address space alone, whose number is in the lowest bits of its operand.
pub const fn is_of_a_space(word: u32) -> bool {
    matches!((word >> 5) & 7, 1 | 2)
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
    /// Bytes from the lowest address on, without .bss at the end.
    pub bytes: Vec<u8>,
    /// The linked address of the first.
    pub base: u32,
    /// Bytes from the first to the end of .bss.
    pub span: u32,
    /// The physical address of the first, where the ELF's own addresses are followed.
    pub at: u32,
    /// The physical address to begin at, likewise.
    pub entry: u32,
    symbols: Vec<(u32, u32, String)>,
}

impl Image {
    /// Reads an ELF.
    pub fn load(path: &Path) -> Result<Self, String> {
        let data = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let wrong = |what: &str| format!("{}: {what}", path.display());
        let elf = ElfFile32::<Endianness>::parse(&*data).map_err(|error| wrong(&error.to_string()))?;
        let endian = elf.endian();
        let segments = elf.elf_program_headers().iter().filter(|one| one.p_type(endian) == PT_LOAD);
        let segments: Vec<_> = segments.filter(|one| one.p_memsz(endian) > 0).collect();
        let first = segments.iter().min_by_key(|one| one.p_vaddr(endian)).ok_or_else(|| wrong("no segment to load"))?;
        let (base, at) = (first.p_vaddr(endian), first.p_paddr(endian));
        let (mut bytes, mut span) = (Vec::new(), 0);
        for segment in &segments {
            let offset = segment.p_vaddr(endian) - base;
            if segment.p_paddr(endian).wrapping_sub(at) != offset {
                return Err(wrong("its segments are not as far apart in memory as they are linked"));
            }
            span = span.max(offset + segment.p_memsz(endian));
            let content = segment.data(endian, &*data).map_err(|()| wrong("a segment is not in the file"))?;
            if !content.is_empty() {
                let end = offset as usize + content.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset as usize..end].copy_from_slice(content);
            }
        }
        let mut symbols: Vec<_> = elf
            .symbols()
            .filter(|symbol| symbol.is_definition() && symbol.kind() == object::SymbolKind::Text)
            .map(|symbol| (symbol.address() as u32, symbol.size() as u32, symbol.name().unwrap_or("?").to_owned()))
            .collect();
        symbols.sort_unstable();
        let entry = elf.elf_header().e_entry(endian);
        Ok(Self { bytes, base, span, at, entry, symbols })
    }

    /// Refuses a machine that does not have memory where this goes by its own addresses.
    pub fn fits(&self, model: &Model) -> Result<(), String> {
        let from = self.at.wrapping_sub(model.ram);
        let fits = from < RAM && self.span <= RAM - from;
        if fits || !matches!(model.boot, Boot::Elf) {
            return Ok(());
        }
        let (at, span) = (self.at, self.span);
        Err(format!("{span} bytes at {at:#010x} are not in the RAM of {}", model.name))
    }

    /// A program without symbols.
    #[cfg(test)]
    pub fn of_words(base: u32, words: impl Iterator<Item = u32>) -> Self {
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        Self { span: bytes.len() as u32, bytes, base, at: base, entry: base, symbols: Vec::new() }
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
            (0xf57f_f04f, Some((Op::Dsb, SYSTEM))),
            (0xf57f_f05b, Some((Op::Dmb, 11))),
            (0xee07_0fba, Some((Op::Dmb, SYSTEM))),
            // A read of SCTLR.
            (0xee11_0f10, None),
        ];
        for (word, op) in known {
            assert_eq!(decode(word), op, "{word:#010x}");
        }
    }
}
