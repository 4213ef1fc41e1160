//! Reports: who holds what, whose an address is, what is lost, and counts.
//!
//! Guarantees: what a fault handler calls never waits: `carveout_place_of`, `carveout_place_of_phys` and
//! `carveout_next_quarantined`. No lock is held while C is called back.

use crate::device::Device;
use crate::failure::{Error, Failure, Refusal, answer, write_line, write_line_at};
use crate::instance;
use carveout::addr::{Frame, PhysAddr, VirtAddr};
use carveout::dma::{BufferRecord, FaultPlace};
use core::ffi::{c_char, c_void};
use core::mem::MaybeUninit;
use core::ptr;

/// Who may access a buffer.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Nobody: it is being made.
    Nobody = 0,
    /// The CPU.
    Cpu = 1,
    /// The device, and nobody else.
    Device = 2,
    /// CPU and device.
    Both = 3,
    /// A device, perhaps: it was given up while a device owned it. Its memory is never used again.
    Quarantine = 4,
}

impl From<carveout::dma::Holder> for Holder {
    fn from(holder: carveout::dma::Holder) -> Self {
        use carveout::dma::Holder as Has;

        match holder {
            Has::Nobody => Self::Nobody,
            Has::Cpu => Self::Cpu,
            Has::Device => Self::Device,
            Has::Both => Self::Both,
            Has::Quarantine => Self::Quarantine,
        }
    }
}

/// What is known of a buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The name of the device that it was allocated for.
    pub(crate) owner: [c_char; 32],
    /// Who may access it.
    pub(crate) holder: Holder,
    /// Its first byte in physical memory.
    pub(crate) phys: u32,
    /// Its bytes in whole pages.
    pub(crate) bytes: u32,
    /// The bytes that were asked for.
    pub(crate) size: u32,
    /// The address at which the CPU has it whenever it is mapped; NULL if it never was.
    pub(crate) cpu_addr: *mut c_void,
    /// How many buffers were allocated before it.
    pub(crate) born: u64,
}

impl Record {
    fn of(record: &BufferRecord) -> Self {
        let &BufferRecord { frames, va, owner, holder, bytes, born } = record;
        let mut name = [0; 32];
        write_line(&mut name, owner);
        Self {
            owner: name,
            holder: holder.into(),
            phys: frames.base().raw(),
            bytes: frames.bytes() as u32,
            size: bytes,
            cpu_addr: va.map_or(ptr::null_mut(), |va| ptr::without_provenance_mut(va.raw() as usize)),
            born,
        }
    }
}

/// What lies at an address.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nothing of the module's.
    NotOurs = 0,
    /// A buffer.
    Buffer = 1,
    /// The page after a buffer, which is never mapped.
    Guard = 2,
    /// A page of an area that no buffer has.
    Free = 3,
    /// A page of the window that no buffer has.
    Unused = 4,
    /// It is not known: another core or the interrupted code has the records.
    Busy = 5,
}

/// Tells C what lies at a place.
///
/// # Safety
///
/// `line` is NULL, or points to `size` characters.
unsafe fn tell(place: FaultPlace, record: Option<&mut MaybeUninit<Record>>, line: *mut c_char, size: usize) -> Place {
    // SAFETY: `line` has as many characters, as this function demands.
    unsafe { write_line_at(line, size, place) };
    let (kind, buffer) = match place {
        FaultPlace::Buffer(record) => (Place::Buffer, Some(record)),
        FaultPlace::Guard(record) => (Place::Guard, Some(record)),
        FaultPlace::Lent(..) | FaultPlace::FreeFrame(_) => (Place::Free, None),
        FaultPlace::UnusedWindow => (Place::Unused, None),
        FaultPlace::Busy => (Place::Busy, None),
    };
    if let (Some(to), Some(buffer)) = (record, buffer) {
        to.write(Record::of(&buffer));
    }
    kind
}

/// Returns what lies at an address of the window, for a fault report. It never waits.
///
/// Of a buffer or a guard it writes the buffer's record to `record`. It writes a line about the place to `line`, which
/// has room for `line_size` characters. Either may be NULL. Nothing is written about an address that is not the
/// module's.
///
/// # Safety
///
/// `line` is NULL, or points to `line_size` characters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_place_of(
    cpu_addr: *const c_void,
    record: Option<&mut MaybeUninit<Record>>,
    line: *mut c_char,
    line_size: usize,
) -> Place {
    let Ok(instance) = instance::ready() else { return Place::NotOurs };
    let Ok(va) = u32::try_from(cpu_addr.addr()).map(VirtAddr::new) else { return Place::NotOurs };
    if !instance.dma().window().contains(va) {
        return Place::NotOurs;
    }
    // SAFETY: `line` has as many characters, as this function demands.
    unsafe { tell(instance.dma().place_of(va), record, line, line_size) }
}

/// Returns what lies at a physical address, for a fault report. It never waits. It is `carveout_place_of` otherwise.
///
/// # Safety
///
/// `line` is NULL, or points to `line_size` characters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_place_of_phys(
    phys: u32,
    record: Option<&mut MaybeUninit<Record>>,
    line: *mut c_char,
    line_size: usize,
) -> Place {
    let Ok(instance) = instance::ready() else { return Place::NotOurs };
    let place = instance.dma().place_of_frame(Frame::containing(PhysAddr::new(phys)));
    let Some(place) = place else { return Place::NotOurs };
    // SAFETY: `line` has as many characters, as this function demands.
    unsafe { tell(place, record, line, line_size) }
}

/// Calls `each` with the record of every buffer, in no particular order, and `context`. A buffer that comes or goes
/// meanwhile may be among them or not. `each` may call every function of the module.
///
/// # Safety
///
/// `each` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn carveout_for_each_holder(
    each: Option<unsafe extern "C" fn(context: *mut c_void, record: &Record)>,
    context: *mut c_void,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let each = each.ok_or(Refusal::Null("each"))?;
        instance.dma().holders().for_each(|record| {
            let record = Record::of(record);
            // SAFETY: it may be called so, as this function demands.
            unsafe { each(context, &record) };
        });
        Ok(())
    })
}

/// Checks that a device which goes away has given back all its buffers. `carveout_for_each_holder` names those that it
/// has.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_retire(dev: Option<&Device>, why: Option<&mut MaybeUninit<Failure>>) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let owner = dev.ok_or(Refusal::Null("dev"))?.name()?;
        let mut buffers = 0;
        instance.dma().holders().for_each(|record| buffers += usize::from(record.owner == owner));
        if buffers == 0 { Ok(()) } else { Err(Refusal::BuffersOut { owner, buffers }) }
    })
}

/// Writes to `record` a buffer that was given up while a device may still use it. Returns whether there was one. Each
/// is told once. It never waits.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_next_quarantined(record: Option<&mut MaybeUninit<Record>>) -> bool {
    let (Ok(instance), Some(to)) = (instance::ready(), record) else { return false };
    let lost = instance.dma().next_quarantined();
    if let Some(lost) = &lost {
        to.write(Record::of(lost));
    }
    lost.is_some()
}

/// What is free in an area, in bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// In all.
    pub(crate) bytes: u64,
    /// In the largest run.
    pub(crate) largest: u64,
}

/// Writes to `room` what is free in an area, a place among the areas that `carveout_init` got.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_area_room(
    area: u32,
    room: Option<&mut MaybeUninit<Room>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let to = room.ok_or(Refusal::Null("room"))?;
        let id = instance.dma().area_at(area as usize);
        let id = id.ok_or(Refusal::Area { number: area, areas: instance.areas() })?;
        let (bytes, largest) = instance.dma().free_bytes(id);
        to.write(Room { bytes, largest });
        Ok(())
    })
}

/// What was counted since `carveout_init`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Cache lines cleaned, inside and outside of the cores.
    pub(crate) cleaned: u64,
    /// Cache lines invalidated, inside and outside of the cores.
    pub(crate) invalidated: u64,
    /// Mappings made and ended.
    pub(crate) map_changes: u64,
    /// Buffers allocated.
    pub(crate) allocations: u64,
    /// Bytes filled with zeros before a new owner got them.
    pub(crate) zeroed: u64,
    /// Bytes in quarantine.
    pub(crate) quarantined: u64,
}

/// Writes to `counts` what was counted.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_count(
    counts: Option<&mut MaybeUninit<Counts>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let to = counts.ok_or(Refusal::Null("counts"))?;
        let stats = instance.dma().stats();
        to.write(Counts {
            cleaned: stats.cleaned.inner + stats.cleaned.outer,
            invalidated: stats.invalidated.inner + stats.invalidated.outer,
            map_changes: stats.map_changes,
            allocations: stats.allocations,
            zeroed: stats.zeroed,
            quarantined: stats.quarantined,
        });
        Ok(())
    })
}
