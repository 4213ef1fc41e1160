//! The check that a blob can be walked at all.

use dtoolkit::fdt::Fdt;

use super::{BootError, string};

/// Checks all that `dtoolkit`'s accessors rely on: they panic if it does not hold.
///
/// `Fdt::new` cannot take its place. It adds lengths that the blob chooses as `usize`, which wraps on a 32-bit target:
/// a property of length `0xffff_fff4` makes it loop for ever. And it refuses the whole tree for a name of more than 31
/// characters, which trees with symbols have.
pub(super) fn check(dtb: &[u8]) -> Result<Fdt<'_>, BootError> {
    const HEADER: usize = 40;
    let truncated = |expected| BootError::Truncated { expected, found: dtb.len() };
    let magic = word(dtb, 0).ok_or(truncated(HEADER))?;
    if magic != 0xd00d_feed {
        return Err(BootError::Magic(magic));
    }
    let header = dtb.first_chunk::<HEADER>().ok_or(truncated(HEADER))?;
    let field = |index: usize| word(header, index * 4).unwrap_or_default() as usize;
    let total = field(1);
    let dtb = dtb.get(..total).ok_or(truncated(total))?;
    if total < HEADER {
        return Err(BootError::Header("header"));
    }
    let (version, last_compatible) = (field(5), field(6));
    if version < 17 || last_compatible > 17 {
        return Err(BootError::Version(version as u32));
    }
    let block = |name, start: usize, size: usize, align: usize| {
        let end =
            start.checked_add(size).filter(|&end| start >= HEADER && start.is_multiple_of(align) && end <= dtb.len());
        end.map(|end| start..end).ok_or(BootError::Header(name))
    };
    let reservations = block("memory reservation", field(4), 0, 8)?.start;
    let structure = block("structure", field(2), field(9), 4)?;
    let strings = block("strings", field(3), field(8), 1)?;

    let (entries, _) = dtb[reservations..].as_chunks::<16>();
    if !entries.contains(&[0; 16]) {
        return Err(BootError::Structure(dtb.len()));
    }
    check_nodes(&dtb[..structure.end], structure.start, &dtb[strings])?;
    Ok(Fdt::new_unchecked(dtb))
}

/// Checks the structure block, which is `dtb[start..]`: one root, properties before children, every name a string,
/// every value inside.
fn check_nodes(dtb: &[u8], start: usize, strings: &[u8]) -> Result<(), BootError> {
    let mut at = start;
    let mut depth = 0_usize;
    let mut may_have_properties = false;
    let aligned = |end: usize| end.next_multiple_of(4);
    loop {
        let corrupt = BootError::Structure(at);
        match word(dtb, at).ok_or(corrupt)? {
            // FDT_BEGIN_NODE; the root begins the block.
            1 if depth > 0 || at == start => {
                let name = dtb.get(at + 4..).and_then(string).ok_or(corrupt)?;
                at = aligned(at + 4 + name.len() + 1);
                depth += 1;
                may_have_properties = true;
            }
            // FDT_END_NODE
            2 if depth > 0 => {
                at += 4;
                depth -= 1;
                may_have_properties = false;
            }
            // FDT_PROP: length of the value, offset of the name, value.
            3 if may_have_properties => {
                let length = word(dtb, at + 4).ok_or(corrupt)? as usize;
                let name = word(dtb, at + 8).ok_or(corrupt)? as usize;
                let end = (at + 12).checked_add(length).filter(|&end| end <= dtb.len()).ok_or(corrupt)?;
                strings.get(name..).and_then(string).ok_or(corrupt)?;
                at = aligned(end);
            }
            // FDT_NOP
            4 if at > start => at += 4,
            // FDT_END
            9 if depth == 0 && at > start => return Ok(()),
            _ => return Err(corrupt),
        }
    }
}

/// One item of the structure block.
pub(super) enum Event<'dtb> {
    /// A node begins: its name, with the unit address.
    Begin(&'dtb str),
    /// A property of the node that began last: its name and value.
    Property(&'dtb str, &'dtb [u8]),
    /// The node that began last and has not ended ends.
    End,
}

/// Walks the structure block of a tree that [`check`] accepted, at any depth and without a stack.
#[derive(Clone, Debug)]
pub(super) struct Events<'dtb> {
    dtb: &'dtb [u8],
    strings: &'dtb [u8],
    at: usize,
}

impl<'dtb> Events<'dtb> {
    pub(super) fn new(dtb: &'dtb [u8]) -> Self {
        let field = |index: usize| word(dtb, index * 4).unwrap_or_default() as usize;
        Self { dtb, strings: dtb.get(field(3)..).unwrap_or_default(), at: field(2) }
    }
}

impl<'dtb> Iterator for Events<'dtb> {
    type Item = Event<'dtb>;

    fn next(&mut self) -> Option<Event<'dtb>> {
        loop {
            let at = self.at;
            match word(self.dtb, at)? {
                1 => {
                    let name = string(self.dtb.get(at + 4..)?)?;
                    self.at = (at + 4 + name.len() + 1).next_multiple_of(4);
                    return Some(Event::Begin(name));
                }
                2 => {
                    self.at = at + 4;
                    return Some(Event::End);
                }
                3 => {
                    let length = word(self.dtb, at + 4)? as usize;
                    let name = string(self.strings.get(word(self.dtb, at + 8)? as usize..)?)?;
                    let value = self.dtb.get(at + 12..)?.get(..length)?;
                    self.at = (at + 12 + length).next_multiple_of(4);
                    return Some(Event::Property(name, value));
                }
                4 => self.at = at + 4,
                _ => return None,
            }
        }
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_be_bytes)
}
