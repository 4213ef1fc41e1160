//! A writer of flattened trees for tests, independent of the parser under test.

use std::borrow::ToOwned;
use std::string::String;
use std::vec::Vec;

/// A node to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Node>,
}

impl Node {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.properties.retain(|(old, _)| old != name);
        self.properties.push((name.to_owned(), value.to_vec()));
        self
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.bytes(name, &[])
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, &[value.as_bytes(), &[0]].concat())
    }

    pub(crate) fn cells(self, name: &str, value: &[u32]) -> Self {
        self.bytes(name, &value.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<_>>())
    }

    pub(crate) fn child(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    pub(crate) fn children(self, children: impl IntoIterator<Item = Node>) -> Self {
        children.into_iter().fold(self, Self::child)
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
        let word = |out: &mut Vec<u8>, word: usize| out.extend((word as u32).to_be_bytes());
        let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
        word(structure, 1);
        structure.extend(self.name.as_bytes());
        structure.push(0);
        pad(structure);
        for (name, value) in &self.properties {
            word(structure, 3);
            word(structure, value.len());
            word(structure, strings.len());
            structure.extend(value);
            pad(structure);
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        for child in &self.children {
            child.write(structure, strings);
        }
        word(structure, 2);
    }
}

/// Writes a tree of version 17.
pub(crate) fn blob(root: &Node, reservations: &[(u64, u64)]) -> Vec<u8> {
    let (mut structure, mut strings) = (Vec::new(), Vec::new());
    root.write(&mut structure, &mut strings);
    structure.extend(9_u32.to_be_bytes());
    let structure_at = 40 + 16 * (reservations.len() + 1);
    let strings_at = structure_at + structure.len();
    let total = strings_at + strings.len();
    let header = [0xd00d_feed, total, structure_at, strings_at, 40, 17, 16, 0, strings.len(), structure.len()];
    let mut blob: Vec<u8> = header.iter().flat_map(|&word| (word as u32).to_be_bytes()).collect();
    for &(base, size) in reservations.iter().chain(&[(0, 0)]) {
        blob.extend(base.to_be_bytes());
        blob.extend(size.to_be_bytes());
    }
    blob.extend(structure);
    blob.extend(strings);
    blob
}

/// A bank of RAM.
pub(crate) fn memory(name: &str, reg: &[u32]) -> Node {
    Node::new(name).text("device_type", "memory").cells("reg", reg)
}

/// `/reserved-memory` with these children.
pub(crate) fn reserved(children: impl IntoIterator<Item = Node>) -> Node {
    let node = Node::new("reserved-memory").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
    node.flag("ranges").children(children)
}

/// A region that is a `shared-dma-pool`.
pub(crate) fn pool(name: &str, flag: &str) -> Node {
    Node::new(name).text("compatible", "shared-dma-pool").flag(flag)
}

/// A root with 1 GiB of RAM at 0x60000000 and this command line.
pub(crate) fn board(bootargs: &str) -> Node {
    Node::new("")
        .cells("#address-cells", &[1])
        .cells("#size-cells", &[1])
        .text("model", "A board")
        .bytes("compatible", b"maker,board\0arm,vexpress\0")
        .child(memory("memory@60000000", &[0x6000_0000, 0x4000_0000]))
        .child(Node::new("chosen").text("bootargs", bootargs).text("stdout-path", "serial0:38400n8"))
}
