//! The audit: walks the live tables, as the hardware would, and compares them with what must be true.
//!
//! Guarantees, when [`audit`] returns a [`Report`]: every carved frame is mapped exactly as the ledger says and
//! nowhere else (I1), none of them outside the windows made for them (I2); all other RAM is mapped write-back only,
//! no register as memory, no RAM by its second name; nothing is writable and executable, and only the kernel's text executes (W^X). It reads
//! descriptors from the registers' own pointers down and trusts no bookkeeping of [`super::space`].

use crate::addr::{FRAME_SHIFT, FRAME_SIZE, Frame, FrameRange, PhysAddr, SECTION_SIZE, VirtAddr};
use crate::arch::Mmu;
use crate::vm::attr::{Access, MemoryType, Shareability};
use crate::vm::desc::{L1_ENTRIES, L1Desc, L1Entry, L2_ENTRIES, L2Desc, L2Entry, Leaf};
use crate::vm::layout::VirtRange;
use crate::vm::ledger::{Carved, Ledger};
use core::fmt;

/// What the audit compares with.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// Every run of RAM the board has, carved or not.
    pub ram: &'a [FrameRange],
    /// Carved runs that are no area: firmware's. Nothing may map them.
    pub firmware: &'a [FrameRange],
    /// The kernel's text.
    pub text: FrameRange,
    /// What Normal memory must carry.
    pub share: Shareability,
}

/// What was found right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Sections of 1 MiB.
    pub sections: u32,
    /// Large pages of 64 KiB.
    pub large_pages: u32,
    /// Small pages of 4 KiB.
    pub small_pages: u32,
    /// Frames of RAM mapped write-back outside the windows.
    pub direct_frames: u32,
    /// Carved frames mapped in a window.
    pub window_frames: u32,
    /// Carved frames in all.
    pub carved_frames: u32,
    /// Frames that execute.
    pub text_frames: u32,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clean: {} sections, {} large and {} small pages; of {} carved frames {} mapped, none in the direct map; \
             W^X holds, {} frames execute",
            self.sections, self.large_pages, self.small_pages, self.carved_frames, self.window_frames, self.text_frames
        )
    }
}

/// What was found wrong: the first of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// TTBCR.N is not that of the layout, so the tables mean something else.
    Split {
        /// What it is.
        n: u32,
    },
    /// A table stands where no known memory is.
    UnknownTable {
        /// The address in the register or descriptor.
        at: PhysAddr,
    },
    /// A descriptor no constructor of this crate makes.
    Foreign {
        /// What it translates.
        va: VirtAddr,
        /// The word.
        word: u32,
    },
    /// Writable and executable, or executable outside the kernel's text (W^X).
    Executable {
        /// Where.
        va: VirtAddr,
        /// What executes there.
        frame: Frame,
    },
    /// The kernel's text is writable through this mapping (W^X).
    WritableText {
        /// Where.
        va: VirtAddr,
        /// The frame of text.
        frame: Frame,
    },
    /// A carved frame outside the windows (I2).
    CarvedOutside {
        /// Where.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
    },
    /// A second translation of a carved frame, or one the ledger does not know (I1).
    Alias {
        /// Where.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
        /// The type found.
        has: MemoryType,
        /// What the ledger says.
        ledger: Carved,
    },
    /// The ledger counts each mapped frame once, and the tables hold more translations of them, or fewer (I1).
    Count {
        /// Frames the ledger has as mapped.
        ledger: u32,
        /// Frames found mapped.
        found: u32,
    },
    /// A frame the ledger has as mapped, that no translation reaches.
    Unreached {
        /// The frame.
        frame: Frame,
    },
    /// RAM by its second name, through a physical alias, whatever the type: the line of the one name is not that of the
    /// other (I1).
    SecondName {
        /// Where.
        va: VirtAddr,
        /// The second name.
        frame: Frame,
        /// The first.
        of: Frame,
        /// The type found.
        has: MemoryType,
    },
    /// RAM mapped otherwise than write-back, or registers as Normal memory (I1).
    WrongType {
        /// Where.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
        /// The type found.
        has: MemoryType,
    },
    /// Normal memory with the wrong S bit: shareability is part of I1.
    WrongShareability {
        /// Where.
        va: VirtAddr,
        /// The frame.
        frame: Frame,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { n } => write!(f, "TTBCR.N is {n}, not 1"),
            Self::UnknownTable { at } => write!(f, "a table at {at}, where no known memory is"),
            Self::Foreign { va, word } => write!(f, "{va}: descriptor {word:#010x} is none of ours"),
            Self::Executable { va, frame } => {
                write!(f, "W^X: {va} executes frame {}, which is not the kernel's text", frame.base())
            }
            Self::WritableText { va, frame } => write!(f, "W^X: {va} can write the kernel's text at {}", frame.base()),
            Self::CarvedOutside { va, frame } => {
                write!(f, "I2: carved frame {} is mapped at {va}, outside the windows", frame.base())
            }
            Self::Alias { va, frame, has, ledger } => {
                write!(f, "I1: {va} maps carved frame {} {has}, but the ledger has it ", frame.base())?;
                match ledger {
                    Carved::Unmapped => write!(f, "unmapped"),
                    Carved::Mapped(memory) => write!(f, "{memory}"),
                }
            }
            Self::Count { ledger, found } => {
                write!(
                    f,
                    "I1: the ledger has {ledger} frames mapped once each, the tables hold {found} translations of them"
                )
            }
            Self::Unreached { frame } => {
                write!(f, "I1: the ledger has frame {} mapped, and no translation reaches it", frame.base())
            }
            Self::SecondName { va, frame, of, has } => {
                let (frame, of) = (frame.base(), of.base());
                write!(f, "I1: {va} maps frame {frame} {has}, which is frame {of} by another name")
            }
            Self::WrongType { va, frame, has } => write!(f, "I1: {va} maps frame {} {has}", frame.base()),
            Self::WrongShareability { va, frame } => {
                write!(f, "I1: {va} maps frame {} with the wrong S bit", frame.base())
            }
        }
    }
}

/// Walks the tables in use and compares each translation. Stops at the first finding. `windows` are where carved frames
/// may be mapped.
///
/// Two translations of one carved frame cannot both pass: each found in a window must be the ledger's, the ledger
/// counts a frame once, and each frame it counts is found. The ledger is changed only in its marks of what was found.
pub fn audit<M: Mmu>(
    mmu: &M,
    expect: &Expect<'_>,
    windows: &[VirtRange],
    ledger: &mut Ledger<'_>,
) -> Result<Report, Finding> {
    let root = mmu.root();
    if root.n != 1 {
        return Err(Finding::Split { n: root.n });
    }
    let mut report = Report { carved_frames: ledger.ranges().map(FrameRange::count).sum(), ..Report::default() };
    ledger.unsee();
    let read = |at: PhysAddr| mmu.table_word(at).ok_or(Finding::UnknownTable { at });
    for section in 0..L1_ENTRIES as u32 {
        let table = if section < L1_ENTRIES as u32 / 2 { root.ttbr0 } else { root.ttbr1 };
        let va = VirtAddr::new(section * SECTION_SIZE);
        match L1Desc::from_raw(read(PhysAddr::new(table.raw() + 4 * section))?).decode() {
            L1Entry::Fault => {}
            L1Entry::Section(leaf) => {
                report.sections += 1;
                for page in 0..SECTION_SIZE / FRAME_SIZE {
                    check(&mut report, expect, windows, ledger, va, page, leaf)?;
                }
            }
            L1Entry::Table(at) => {
                for page in 0..L2_ENTRIES as u32 {
                    match L2Desc::from_raw(read(PhysAddr::new(at.raw() + 4 * page))?).decode() {
                        L2Entry::Fault => {}
                        L2Entry::Page(leaf) => {
                            let within = page % (leaf.size / FRAME_SIZE);
                            if leaf.size == FRAME_SIZE {
                                report.small_pages += 1;
                            } else if within == 0 {
                                report.large_pages += 1;
                            }
                            let base = VirtAddr::new(va.raw() + (page - within) * FRAME_SIZE);
                            check(&mut report, expect, windows, ledger, base, within, leaf)?;
                        }
                        L2Entry::Foreign(word) => {
                            return Err(Finding::Foreign { va: VirtAddr::new(va.raw() + page * FRAME_SIZE), word });
                        }
                    }
                }
            }
            L1Entry::Foreign(word) => return Err(Finding::Foreign { va, word }),
        }
    }
    let claimed = ledger.mapped().count() as u32;
    if claimed != report.window_frames {
        return Err(Finding::Count { ledger: claimed, found: report.window_frames });
    }
    match ledger.mapped().find(|&(_, seen)| !seen) {
        Some((frame, _)) => Err(Finding::Unreached { frame }),
        None => Ok(report),
    }
}

/// Checks page number `page` of a leaf that starts at `base`.
fn check(
    report: &mut Report,
    expect: &Expect<'_>,
    windows: &[VirtRange],
    ledger: &mut Ledger<'_>,
    base: VirtAddr,
    page: u32,
    leaf: Leaf,
) -> Result<(), Finding> {
    let va = VirtAddr::new(base.raw() + (page << FRAME_SHIFT));
    let frame = Frame::containing(PhysAddr::new(leaf.base.raw() + (page << FRAME_SHIFT)));
    let has = leaf.memory;
    if let Some(of) = ledger.aliases().first_name(frame) {
        return Err(Finding::SecondName { va, frame, of, has });
    }
    let in_text = expect.text.contains(frame);
    match leaf.access {
        Access::ReadExecute if !in_text => return Err(Finding::Executable { va, frame }),
        Access::ReadExecute => report.text_frames += 1,
        Access::ReadWrite if in_text => return Err(Finding::WritableText { va, frame }),
        Access::Read | Access::ReadWrite => {}
    }
    let holds = |runs: &[FrameRange]| runs.iter().any(|run| run.contains(frame));
    let normal = matches!(has, MemoryType::WriteBack | MemoryType::NonCacheable);
    if normal && leaf.shareability != expect.share {
        return Err(Finding::WrongShareability { va, frame });
    }
    if let Some(state) = ledger.state(frame) {
        if !windows.iter().any(|window| window.contains(va)) {
            return Err(Finding::CarvedOutside { va, frame });
        }
        if state != Carved::Mapped(has) {
            return Err(Finding::Alias { va, frame, has, ledger: state });
        }
        ledger.see(frame);
        report.window_frames += 1;
    } else if holds(expect.firmware) {
        return Err(Finding::CarvedOutside { va, frame });
    } else if holds(expect.ram) {
        if has != MemoryType::WriteBack {
            return Err(Finding::WrongType { va, frame, has });
        }
        report.direct_frames += 1;
    } else if normal {
        return Err(Finding::WrongType { va, frame, has });
    }
    Ok(())
}
