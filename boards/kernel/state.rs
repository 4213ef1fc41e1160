//! The running kernel: what the boot made, and what drivers may take from it.
//!
//! Guarantees: a device's registers have one holder at a time.

use super::devices::{self, Found};
use super::heap;
use super::registers::take;
use crate::drivers::mmio::Mmio;
use crate::drivers::timer::Counter;
use crate::println;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use carveout::addr::{FrameRange, PhysAddr};
use carveout::cpu::MAX_CORES;
use carveout::dma::{AreaId, Dma, Master};
use carveout::machine::Registers;
use carveout::sync::Lock;
use carveout::vm::audit::{Expect, Findings, KernelMap, Report};
use carveout::vm::user::UserPages;
use carveout_armv7a::cores::World;
use carveout_armv7a::l2c310::L2c310;
use carveout_armv7a::mmu::Armv7a;
use carveout_boot::bootinfo::{BootInfo, DevicePath};
use carveout_boot::layout::Layout;
use carveout_rt::address_space::AddressSpace;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Once;

static KERNEL: Once<Kernel> = Once::new();
/// The registers that each core started with. This includes cores that were given up, because they sleep with their MMU
/// on.
pub(super) static CAME: [Once<Registers>; MAX_CORES] = [const { Once::new() }; MAX_CORES];

/// What the boot made for the rest of the program.
pub struct Kernel {
    /// The device tree.
    pub info: BootInfo<'static>,
    /// The plan of the memory.
    pub layout: &'static Layout<'static>,
    /// The world that this runs in.
    pub world: World,
    /// The core and its caches.
    pub machine: &'static Armv7a,
    /// The outer cache controller, if there is one.
    pub outer: Option<&'static L2c310>,
    /// The areas and their buffers.
    pub dma: &'static Dma<Armv7a>,
    /// The heap's frames.
    pub heap: FrameRange,
    /// A counter, if the board has one that is known here.
    pub clock: Option<Box<dyn Counter>>,
    /// The kernel's half of the address space.
    pub space: Lock<AddressSpace>,
    pub(super) default_area: Option<AreaId>,
    /// Memory that nothing may map: the firmware's, and what the command line withholds.
    pub(super) unmapped: Vec<FrameRange>,
    pub(super) text: FrameRange,
}

/// Returns the kernel, once it runs.
pub fn kernel() -> Option<&'static Kernel> {
    KERNEL.get()
}

/// Sets the kernel that [`kernel`] returns from here on.
pub(super) fn set(kernel: Kernel) -> &'static Kernel {
    KERNEL.call_once(|| kernel)
}

/// Returns the registers of cores, by number.
pub(super) fn numbered(cores: &[Once<Registers>; MAX_CORES]) -> impl Iterator<Item = (u32, Registers)> {
    (0..).zip(cores).filter_map(|(core, registers)| Some((core, *registers.get()?)))
}

/// Returns the registers that each core started with, by the core's number.
pub(super) fn came() -> impl Iterator<Item = (u32, Registers)> {
    numbered(&CAME)
}

impl Kernel {
    /// Takes a device's registers for one driver. Returns `None`, and prints a line, if they are too few for `R`, if
    /// they overlap RAM (I1), or if another driver has some of them.
    ///
    /// # Safety
    ///
    /// The device has registers that are laid out as `R` there.
    pub unsafe fn registers<R>(&'static self, at: PhysAddr, bytes: u32) -> Option<Mmio<R>> {
        let (block, first) = take(&mut self.space.lock(), at, bytes)?;
        let give_back = Box::new(|| self.space.lock().give_back(block));
        // SAFETY: the mapping lasts, and nobody else gets the block before it is given back; it is laid out so
        // (contract of `registers`).
        Some(unsafe { Mmio::new(first, Some(give_back)) })
    }

    /// Takes the first register block of a device of the tree for one driver.
    ///
    /// # Safety
    ///
    /// As for [`registers`](Self::registers).
    pub unsafe fn first<R>(&'static self, found: &Found<'_>) -> Option<Mmio<R>> {
        let block = found.blocks.first()?;
        // SAFETY: the contract of `first` is that of `registers`.
        unsafe { self.registers(block.at, block.bytes) }
    }

    /// Returns a bus master of the device tree, by its path. Its area is the first that its `memory-region` names, or
    /// the default area if there is no `memory-region`. If that area was refused, the master has no area. The master
    /// sees memory through the `dma-ranges` above its node. If these are refused, one line says so, and the master
    /// reaches nothing.
    ///
    /// A `name` that is not the path of a node makes a master that the tree does not describe.
    pub fn master(&self, name: &'static str) -> Master {
        match DevicePath::parse(name) {
            Some(path) => self.master_at(path.name(), &path),
            None => Master::new(name, self.default_area),
        }
    }

    /// Returns the bus master of the node at a path, as [`master`](Self::master) does. Tables and reports call it
    /// `name`.
    #[expect(clippy::missing_panics_doc, reason = "a master with no windows is always accepted")]
    pub fn master_at(&self, name: &'static str, path: &DevicePath<'static>) -> Master {
        let master = match self.layout.area_of(path) {
            Ok(None) => Master::new(name, self.default_area),
            Ok(Some(area)) => Master::new(name, self.dma.area_at(area)),
            Err(lost) => Master::without_area(name, Box::leak(format!("{lost}").into_boxed_str())),
        };
        let refused = |error: &dyn fmt::Display| {
            println!("refused: {path}: {error}");
            master.clone().with_apertures(&[]).expect("no windows are well formed")
        };
        match devices::bus_apertures(&self.info, path) {
            Ok(None) => master,
            Ok(Some(windows)) => master.clone().with_apertures(&windows).unwrap_or_else(|error| refused(&error)),
            Err(error) => refused(&error),
        }
    }

    /// Returns the default area.
    pub const fn default_area(&self) -> Option<AreaId> {
        self.default_area
    }

    /// Returns how many bytes of heap are free.
    pub fn heap_free(&self) -> usize {
        heap::free()
    }

    /// Returns the microseconds since boot. Without a clock, returns a count that grows.
    pub fn micros(&self) -> u64 {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        self.clock.as_ref().map_or_else(|| ASKED.fetch_add(1, Ordering::Relaxed).into(), |clock| clock.micros())
    }

    /// Walks the live tables by this core's registers (I1, I2, W^X). These must equal the registers that each core
    /// started with. [`cores::audit`](super::cores::audit) also looks at the registers that the other cores have now.
    ///
    /// # Errors
    ///
    /// The first finding, and how many there are of each kind.
    pub fn audit(&self) -> Result<Report, Findings> {
        let cores: ArrayVec<_, MAX_CORES> = came().collect();
        self.audit_beside(&cores)
    }

    /// Walks the live tables as [`audit`](Self::audit) does, and the tables of processes, whose first-level tables are
    /// `roots`. `users` says which pages of buffers the processes may have.
    ///
    /// # Errors
    ///
    /// As [`audit`](Self::audit).
    pub fn audit_users(&self, roots: &[PhysAddr], users: &dyn UserPages) -> Result<Report, Findings> {
        self.audit_with(&Expect { roots, users: Some(users), ..Expect::CARVED })
    }

    /// Walks the live tables by this core's registers. These must equal `cores`, the registers of other cores by
    /// number.
    pub(super) fn audit_beside(&self, cores: &[(u32, Registers)]) -> Result<Report, Findings> {
        self.audit_with(&Expect { cores, ..Expect::CARVED })
    }

    /// Walks the live tables, and compares them with this kernel's own map too.
    fn audit_with(&self, expect: &Expect<'_>) -> Result<Report, Findings> {
        let kernel = Some(KernelMap { ram: self.info.banks(), text: self.text });
        self.dma.audit(&Expect { kernel, firmware: &self.unmapped, ..*expect }, |_| {})
    }
}
