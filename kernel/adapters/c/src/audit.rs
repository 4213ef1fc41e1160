//! The audit: the live tables against what must be true (I1, I2).
//!
//! Guarantees: nothing of the module changes while it runs.

use crate::failure::{Error, Failure, Refusal, answer, write_line};
use crate::instance;
use crate::kernel::{self, Range, list};
use arrayvec::ArrayVec;
use carveout::addr::FrameRange;
use carveout::vm::audit::{Expect, KernelMap};
use carveout::vm::user::UserPages;
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;

/// The most runs of RAM that the audit can be told of.
const MAX_RAM: usize = 16;

/// What the audit compares the tables with.
#[repr(C)]
#[derive(Debug)]
pub struct Expected {
    /// Every run of RAM that the board has, areas or not.
    pub(crate) ram: *const Range,
    /// How many there are, 1 to 16.
    pub(crate) ram_count: usize,
    /// The kernel's text, which alone executes.
    pub(crate) text: Range,
    /// The physical addresses of the first-level tables that TTBR0 does not hold now: those of the processes that do
    /// not run. NULL stands for none.
    pub(crate) roots: *const u32,
    /// How many there are.
    pub(crate) root_count: usize,
}

/// What the audit found to be right.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AuditReport {
    /// Sections of 1 MiB that the tables have.
    pub(crate) sections: u32,
    /// Large pages of 64 KiB.
    pub(crate) large_pages: u32,
    /// Small pages of 4 KiB.
    pub(crate) small_pages: u32,
    /// Pages of RAM that are mapped write-back outside of the window.
    pub(crate) direct_frames: u32,
    /// Pages of areas that are mapped in the window.
    pub(crate) window_frames: u32,
    /// Pages of areas that processes have, as clients of shared buffers.
    pub(crate) user_pages: u32,
    /// Pages of areas in all.
    pub(crate) carved_frames: u32,
}

/// Walks the live tables as the hardware would. Checks that each page of an area is mapped as the module has it and
/// nowhere else, but for the pages of shared buffers, which the processes have that may; and that the registers and all
/// other descriptors are as the module relies on. Calls `each` with a line
/// for each finding, and `context`. It runs with interrupts masked, and `each` calls nothing of the module.
///
/// Writes to `report` what it found to be right.
///
/// # Safety
///
/// `each` is NULL, or may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_audit(
    expected: Option<&Expected>,
    each: Option<unsafe extern "C" fn(context: *mut c_void, line: *const c_char)>,
    context: *mut c_void,
    report: Option<&mut MaybeUninit<AuditReport>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let Expected { ram, ram_count, text, roots, root_count } = expected.ok_or(Refusal::Null("expected"))?;
        // SAFETY: it is NULL or points to as many ranges, as the header says of it.
        let given = unsafe { list(*ram, *ram_count) };
        let mut ram = ArrayVec::<FrameRange, MAX_RAM>::new();
        for range in given {
            ram.try_push(range.frames()?).map_err(|_| Refusal::Full { what: "runs of RAM", limit: MAX_RAM })?;
        }
        // SAFETY: it is NULL or points to as many addresses, as the header says of it.
        let roots = unsafe { kernel::roots(*roots, *root_count) };
        let kernel = Some(KernelMap { ram: &ram, text: text.frames()? });
        let users = instance.sharing().ok().map(|sharing| -> &dyn UserPages { &sharing.shares });
        let expect = Expect { kernel, firmware: &[], roots, cores: &[], users };
        let found = instance.dma().audit(&expect, |finding| {
            let mut line = [0; 256];
            write_line(&mut line, finding);
            if let Some(each) = each {
                // SAFETY: it may be called so, as this function demands.
                unsafe { each(context, line.as_ptr()) };
            }
        });
        let right = found.map_err(Refusal::Audit)?;
        if let Some(report) = report {
            report.write(AuditReport {
                sections: right.sections,
                large_pages: right.large_pages,
                small_pages: right.small_pages,
                direct_frames: right.direct_frames,
                window_frames: right.window_frames,
                user_pages: right.user_pages,
                carved_frames: right.carved_frames,
            });
        }
        Ok(())
    })
}
