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
    // Then whatever begins in it is a string.
    let all_are_strings = strings.is_ascii() && strings.last() == Some(&0);
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
                let name = strings.get(name..).filter(|name| !name.is_empty()).ok_or(corrupt)?;
                if !all_are_strings {
                    string(name).ok_or(corrupt)?;
                }
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
    /// A node begins: its name, with the unit address. It is text.
    Begin(&'dtb [u8]),
    /// A property of the node that began last: its name and value.
    Property(Name<'dtb>, &'dtb [u8]),
    /// The node that began last and has not ended ends.
    End,
}

/// The name of a property, which is not looked through before it is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'dtb> {
    /// The strings block from the name's first byte on.
    strings: &'dtb [u8],
}

impl Name<'_> {
    #[inline]
    pub(super) fn is(self, name: &str) -> bool {
        // Most names differ in the first byte.
        self.strings.first() == name.as_bytes().first()
            && self.strings.get(name.len()) == Some(&0)
            && self.strings.starts_with(name.as_bytes())
    }
}

/// Walks the structure block of a tree that [`check`] accepted, at any depth and without a stack.
#[derive(Clone, Debug)]
pub(super) struct Events<'dtb> {
    /// The structure block from the next item on.
    rest: &'dtb [u8],
    strings: &'dtb [u8],
}

impl<'dtb> Events<'dtb> {
    pub(super) fn new(dtb: &'dtb [u8]) -> Self {
        let from = |index: usize| dtb.get(word(dtb, index * 4).unwrap_or_default() as usize..).unwrap_or_default();
        Self { rest: from(2), strings: from(3) }
    }
}

impl<'dtb> Iterator for Events<'dtb> {
    type Item = Event<'dtb>;

    fn next(&mut self) -> Option<Event<'dtb>> {
        loop {
            let (tag, rest) = self.rest.split_first_chunk::<4>()?;
            match u32::from_be_bytes(*tag) {
                1 => {
                    let end = rest.iter().position(|&byte| byte == 0)?;
                    self.rest = rest.get((end + 1).next_multiple_of(4)..)?;
                    return Some(Event::Begin(&rest[..end]));
                }
                2 => {
                    self.rest = rest;
                    return Some(Event::End);
                }
                3 => {
                    let (&[l0, l1, l2, l3, n0, n1, n2, n3], rest) = rest.split_first_chunk::<8>()?;
                    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
                    let strings = self.strings.get(u32::from_be_bytes([n0, n1, n2, n3]) as usize..)?;
                    let value = rest.get(..length)?;
                    self.rest = rest.get(length.next_multiple_of(4)..)?;
                    return Some(Event::Property(Name { strings }, value));
                }
                4 => self.rest = rest,
                _ => return None,
            }
        }
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_be_bytes)
}
