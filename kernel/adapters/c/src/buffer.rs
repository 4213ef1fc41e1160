//! Buffers: coherent ones, streams, and those of devices alone.
//!
//! Guarantees: a handle that C passes is looked up before anything is done. A buffer that was freed, one of another
//! kind, direction, device, size or address, and one whose turn it is not, are refused, and nothing changes (I4). While
//! a device owns a stream, its address faults.

use crate::contract;
use crate::device::Device;
use crate::dma_handle::DmaHandle;
use crate::failure::{Error, Failure, Refusal, answer, told};
use crate::instance::{self, Instance};
use crate::machine::Machine;
use carveout::dma::{
    self, BufferState, Coherent, Contiguous, Cpu, DataDirection, DeviceOnly, Handle, HandleError, RawRecord, Stream,
};
use carveout::machine::Cache;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::{ptr, slice};

/// Who writes a stream: Linux's `enum dma_data_direction`, with its numbers.
///
/// cbindgen:rename-all=ScreamingSnakeCase
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// CPU and device write and read, in turns.
    CarveoutBidirectional = 0,
    /// The CPU writes and the device reads.
    CarveoutToDevice = 1,
    /// The device writes and the CPU reads.
    CarveoutFromDevice = 2,
}

/// A number that C passes for a direction.
pub type DirectionNumber = u32;

pub(crate) fn direction(number: DirectionNumber) -> Result<DataDirection, Refusal> {
    match number {
        n if n == Direction::CarveoutBidirectional as u32 => Ok(DataDirection::Bidirectional),
        n if n == Direction::CarveoutToDevice as u32 => Ok(DataDirection::ToDevice),
        n if n == Direction::CarveoutFromDevice as u32 => Ok(DataDirection::FromDevice),
        n => Err(Refusal::NoDirection(n)),
    }
}

/// Allocates from the device's area, or by its contract.
fn alloc(instance: &'static Instance, dev: &Device, size: usize) -> Result<Contiguous<Machine>, Refusal> {
    let bytes = u32::try_from(size).map_err(|_| Refusal::TooLarge { bytes: size })?;
    if dev.contract.is_one() {
        return contract::alloc(instance, dev, bytes);
    }
    Ok(instance.dma().alloc(&dev.master(instance)?, bytes, dev.align())?)
}

/// A buffer as C names it, found to be that of its record.
struct Named {
    instance: &'static Instance,
    handle: Handle,
    raw: RawRecord,
}

impl Named {
    /// Looks a buffer up, and compares what C says of it with its record.
    fn find(dev: Option<&Device>, dma_handle: DmaHandle) -> Result<Self, Refusal> {
        let instance = instance::ready()?;
        let dev = dev.ok_or(Refusal::Null("dev"))?;
        let handle = Handle::from_bits(dma_handle.id).ok_or(Refusal::Gone("buffer"))?;
        let raw = instance.dma().raw_record(handle)?;
        let (owner, named) = (raw.record.owner, dev.name()?);
        if owner != named {
            return Err(Refusal::OtherDevice { owner, named });
        }
        let (has, named) = (raw.bus.raw(), dma_handle.addr);
        if has != named {
            return Err(Refusal::Address { has: has as usize, named: named as usize });
        }
        Ok(Self { instance, handle, raw })
    }

    fn of_size(self, named: usize) -> Result<Self, Refusal> {
        let has = self.raw.record.bytes as usize;
        if has == named { Ok(self) } else { Err(Refusal::Size { has, named }) }
    }

    /// Checks that it is in this state.
    fn in_state(self, wanted: BufferState) -> Result<Self, Refusal> {
        let (handle, has) = (self.handle, self.raw.state);
        if has == wanted { Ok(self) } else { Err(HandleError::State { handle, has, wanted }.into()) }
    }

    /// Checks that the CPU has it at this address now.
    fn at(self, cpu_addr: *const c_void) -> Result<Self, Refusal> {
        let has = self.raw.record.va.map_or(0, |va| self.instance.pointer(va).addr());
        let named = cpu_addr.addr();
        if has == named { Ok(self) } else { Err(Refusal::Address { has, named }) }
    }

    /// Checks that it has these bytes.
    fn inside(&self, offset: usize, size: usize) -> Result<(), Refusal> {
        let has = self.raw.record.bytes as usize;
        let inside = offset.checked_add(size).is_some_and(|end| end <= has);
        if inside { Ok(()) } else { Err(Refusal::Range { offset, size, has }) }
    }

    /// Forgets what the bytes were, of a buffer that is no more.
    fn forget_sum(&self) {
        if let Some(sums) = self.instance.sums() {
            sums.forget(self.handle);
        }
    }

    /// Checks that it is a stream of this direction.
    fn in_direction(self, number: DirectionNumber) -> Result<Self, Refusal> {
        let (handle, wanted) = (self.handle, direction(number)?);
        match self.raw.direction {
            Some(has) if has == wanted => Ok(self),
            Some(has) => {
                let error = dma::DirectionError::Other { has, wanted };
                Err(HandleError::Direction { handle, error }.into())
            }
            None => {
                let (has, wanted) = (self.raw.state, BufferState::CpuStream);
                Err(HandleError::State { handle, has, wanted }.into())
            }
        }
    }
}

/// Tells C the handle of a buffer that was put away.
fn hand_out(raw: &RawRecord, handle: Handle, to: &mut MaybeUninit<DmaHandle>) {
    to.write(DmaHandle { id: handle.to_bits(), addr: raw.bus.raw() });
}

/// Allocates a coherent buffer: Linux's `dma_alloc_coherent`, which has `gfp` for `why`. CPU and device share it, and
/// see what the other wrote after `carveout_dma_wmb`, `carveout_dma_rmb` and `carveout_wmb`. It is filled with zeros.
///
/// Returns its first byte for the CPU, aligned to 4 KiB, and writes to `dma_handle` where the device finds it. Returns
/// NULL if it refused. No call moves a buffer while it lives.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_alloc_coherent(
    dev: Option<&Device>,
    size: usize,
    dma_handle: Option<&mut MaybeUninit<DmaHandle>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> *mut c_void {
    let done = told(why, || {
        let instance = instance::ready()?;
        let to = dma_handle.ok_or(Refusal::Null("dma_handle"))?;
        let buffer = alloc(instance, dev.ok_or(Refusal::Null("dev"))?, size)?.into_coherent();
        let first = buffer.as_ptr();
        let handle = buffer.into_raw();
        hand_out(&instance.dma().raw_record(handle)?, handle, to);
        Ok(first.as_ptr().cast())
    });
    done.unwrap_or(ptr::null_mut())
}

/// Frees a coherent buffer: Linux's `dma_free_coherent`. The device has finished with it, and forgot its address.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_free_coherent(
    dev: Option<&Device>,
    size: usize,
    cpu_addr: *mut c_void,
    dma_handle: DmaHandle,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let named = Named::find(dev, dma_handle)?.in_state(BufferState::Coherent)?.of_size(size)?.at(cpu_addr)?;
        let buffer = Coherent::from_raw(named.instance.dma(), named.handle)?;
        // SAFETY: the device has finished, as C says by this call (I4).
        drop(unsafe { buffer.release() });
        Ok(())
    })
}

/// Maps a stream for the CPU, and puts it away. Returns its first byte and its handle.
fn open(instance: &Instance, mut stream: Stream<Machine, DataDirection, Cpu>) -> (*mut u8, Handle) {
    if let Ok(bytes) = stream.try_bytes_mut() {
        return (bytes.as_mut_ptr(), stream.into_raw());
    }
    let (first, count) = (stream.bytes().as_ptr(), stream.len());
    let handle = stream.into_raw();
    if let Some(sums) = instance.sums() {
        // SAFETY: the stream is the CPU's, and mapped; C does not know yet that it is.
        sums.keep(handle, unsafe { slice::from_raw_parts(first, count) });
    }
    (first.cast_mut(), handle)
}

/// Allocates a stream: Linux's `dma_alloc_noncoherent`, which has `gfp` for `why`. It is write-back memory that is the
/// CPU's and the device's in turns, the CPU's at first. It is filled with zeros.
///
/// Returns its first byte for the CPU, aligned to 4 KiB, and writes to `dma_handle` where the device will find it.
/// Returns NULL if it refused. While the device owns it, any access to the CPU's address faults. The CPU does not write
/// to one that is `CARVEOUT_FROM_DEVICE`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_alloc_noncoherent(
    dev: Option<&Device>,
    size: usize,
    dma_handle: Option<&mut MaybeUninit<DmaHandle>>,
    dir: DirectionNumber,
    why: Option<&mut MaybeUninit<Failure>>,
) -> *mut c_void {
    let done = told(why, || {
        let instance = instance::ready()?;
        let to = dma_handle.ok_or(Refusal::Null("dma_handle"))?;
        let dev = dev.ok_or(Refusal::Null("dev"))?;
        let direction = direction(dir)?;
        let stream = alloc(instance, dev, size)?.into_stream_of(direction);
        let (first, handle) = open(instance, stream);
        hand_out(&instance.dma().raw_record(handle)?, handle, to);
        Ok(first.cast())
    });
    done.unwrap_or(ptr::null_mut())
}

/// Frees a stream that the CPU owns: Linux's `dma_free_noncoherent`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_free_noncoherent(
    dev: Option<&Device>,
    size: usize,
    cpu_addr: *mut c_void,
    dma_handle: DmaHandle,
    dir: DirectionNumber,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let named = Named::find(dev, dma_handle)?.in_direction(dir)?.in_state(BufferState::CpuStream)?;
        let named = named.of_size(size)?.at(cpu_addr)?;
        let stream: Stream<Machine, DataDirection, Cpu> = Stream::from_raw(named.instance.dma(), named.handle)?;
        drop(stream);
        named.forget_sum();
        Ok(())
    })
}

/// Hands a stream to the device: Linux's `dma_sync_single_for_device`. All that the CPU wrote is cleaned, and the CPU's
/// address faults from here on. After it the device may be told of the address.
///
/// A stream that is `CARVEOUT_FROM_DEVICE` is not cleaned. Where the kernel has `check_writes`, one that the CPU wrote
/// to is refused, now and at each further call: it can be freed. What does not show is a write of the value that was
/// there, and one after the bytes that were asked for.
///
/// `size` is at most the buffer's. The whole buffer changes hands, whatever it is.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_sync_single_for_device(
    dev: Option<&Device>,
    dma_handle: DmaHandle,
    size: usize,
    dir: DirectionNumber,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let named = Named::find(dev, dma_handle)?.in_direction(dir)?.in_state(BufferState::CpuStream)?;
        named.inside(0, size)?;
        let stream: Stream<Machine, DataDirection, Cpu> = Stream::from_raw(named.instance.dma(), named.handle)?;
        if let Some(sums) = named.instance.sums()
            && !sums.are_as_kept(named.handle, stream.bytes())
        {
            stream.into_raw();
            return Err(Refusal::Written { owner: named.raw.record.owner });
        }
        stream.for_device().into_raw();
        Ok(())
    })
}

/// Takes a stream back from the device: Linux's `dma_sync_single_for_cpu`. The device has finished with it, and said so
/// in a register, or in memory that was read before. The CPU may use its address from here on, and finds what the
/// device wrote.
///
/// The device wrote nothing after the first `size` bytes. The whole buffer changes hands.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_sync_single_for_cpu(
    dev: Option<&Device>,
    dma_handle: DmaHandle,
    size: usize,
    dir: DirectionNumber,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    carveout_sync_single_range_for_cpu(dev, dma_handle, 0, size, dir, why)
}

/// Takes a stream back from a device that wrote only `size` bytes from `offset` on: Linux's
/// `dma_sync_single_range_for_cpu`. It is `carveout_sync_single_for_cpu` otherwise.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_sync_single_range_for_cpu(
    dev: Option<&Device>,
    dma_handle: DmaHandle,
    offset: usize,
    size: usize,
    dir: DirectionNumber,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let named = Named::find(dev, dma_handle)?.in_direction(dir)?.in_state(BufferState::DeviceStream)?;
        named.inside(offset, size)?;
        let stream: Stream<Machine, DataDirection, dma::Device> = Stream::from_raw(named.instance.dma(), named.handle)?;
        // SAFETY: the device has finished and wrote nothing else, as C says by this call (I4).
        let stream = unsafe { stream.for_cpu_part(offset..offset + size) };
        open(named.instance, stream);
        Ok(())
    })
}

/// Allocates a buffer for devices alone: Linux's `dma_alloc_attrs` with `DMA_ATTR_NO_KERNEL_MAPPING`. One device writes
/// it and another reads it. It has no address for the CPU. It is filled with zeros.
///
/// Writes to `dma_handle` where the device finds it.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_alloc_device_only(
    dev: Option<&Device>,
    size: usize,
    dma_handle: Option<&mut MaybeUninit<DmaHandle>>,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let instance = instance::ready()?;
        let to = dma_handle.ok_or(Refusal::Null("dma_handle"))?;
        let handle = alloc(instance, dev.ok_or(Refusal::Null("dev"))?, size)?.into_device().into_raw();
        hand_out(&instance.dma().raw_record(handle)?, handle, to);
        Ok(())
    })
}

/// Frees a buffer of devices alone. All devices have finished with it, and forgot its address.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_free_device_only(
    dev: Option<&Device>,
    size: usize,
    dma_handle: DmaHandle,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let named = Named::find(dev, dma_handle)?.in_state(BufferState::DeviceOnly)?.of_size(size)?;
        let buffer = DeviceOnly::from_raw(named.instance.dma(), named.handle)?;
        // SAFETY: the devices have finished, as C says by this call (I4).
        drop(unsafe { buffer.release() });
        Ok(())
    })
}

/// Gives up a buffer that a device may still use: one that does not answer any more. Its memory is never used again.
/// `carveout_next_quarantined` tells of it. A stream that the CPU owns is refused, for it can be freed.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_quarantine(
    dev: Option<&Device>,
    dma_handle: DmaHandle,
    why: Option<&mut MaybeUninit<Failure>>,
) -> Error {
    answer(why, || {
        let named = Named::find(dev, dma_handle)?;
        let (dma, handle) = (named.instance.dma(), named.handle);
        match named.raw.state {
            BufferState::Coherent => {
                let buffer = Coherent::from_raw(dma, handle)?;
                // C may have told the device of the address, so it counts as told.
                buffer.bus();
                drop(buffer);
            }
            BufferState::DeviceOnly => {
                let buffer = DeviceOnly::from_raw(dma, handle)?;
                buffer.bus();
                drop(buffer);
            }
            BufferState::DeviceStream | BufferState::CpuStream | BufferState::Contiguous => {
                let stream: Stream<Machine, DataDirection, dma::Device> = Stream::from_raw(dma, handle)?;
                drop(stream);
            }
        }
        named.forget_sum();
        Ok(())
    })
}

/// Passes the barrier between two writes to coherent memory that a device polls, such as a descriptor and the word that
/// makes it valid: Linux's `dma_wmb`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_dma_wmb() {
    if let Ok(instance) = instance::ready() {
        instance.machine().dma_wmb();
    }
}

/// Passes the barrier between two reads of coherent memory that a device writes, such as a completion word and what it
/// says is complete: Linux's `dma_rmb`.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_dma_rmb() {
    if let Ok(instance) = instance::ready() {
        instance.machine().dma_rmb();
    }
}

/// Passes the barrier after which devices see all that was written to coherent memory: Linux's `wmb`. It stands before
/// the register write that tells a device to go.
#[unsafe(no_mangle)]
pub extern "C" fn carveout_wmb() {
    if let Ok(instance) = instance::ready() {
        instance.machine().device_barrier();
    }
}
