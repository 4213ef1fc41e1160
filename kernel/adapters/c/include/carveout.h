/*
 * Carveout: contiguous memory for devices, as areas that no other mapping of the kernel's names.
 *
 * Made by cbindgen of kernel/adapters/c; C99, and C++.
 *
 * Of every function:
 * - Any pointer may be NULL. What is needed is refused then, and what is not is passed over. A pointer that is not NULL
 *   points to a whole object of its type, or to as many as the argument or field beside it says.
 * - The last argument of what can be refused has room for the reason, or is NULL. A refusal changes nothing.
 * - Any core may call it at any time, and so may interrupt handlers, unless its comment says that it uses the kernel's
 *   `alloc` or `free`, or that it is not for them. What shares buffers (carveout_share_, carveout_client_) is not: it
 *   waits for its turn on the buffer.
 */

#ifndef CARVEOUT_H
#define CARVEOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * What a function answers. `carveout_strerror` has a text for each.
 */
enum carveout_error
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It did what it was asked for.
     */
    CARVEOUT_ERROR_OK = 0,
    /**
     * A pointer that it needs is NULL.
     */
    CARVEOUT_ERROR_NULL_POINTER = 1,
    /**
     * `carveout_init` has not succeeded yet.
     */
    CARVEOUT_ERROR_NOT_READY = 2,
    /**
     * `carveout_init` has succeeded before.
     */
    CARVEOUT_ERROR_READY = 3,
    /**
     * A name is not UTF-8, or has more than 31 bytes.
     */
    CARVEOUT_ERROR_NAME = 4,
    /**
     * The kernel's registers, tables or ranges are not as the module needs them.
     */
    CARVEOUT_ERROR_KERNEL = 5,
    /**
     * The kernel's `alloc` gave no memory.
     */
    CARVEOUT_ERROR_HEAP = 6,
    /**
     * No bus master is like the description of the device.
     */
    CARVEOUT_ERROR_DEVICE = 7,
    /**
     * There is no such area.
     */
    CARVEOUT_ERROR_AREA = 8,
    /**
     * No bytes were asked for.
     */
    CARVEOUT_ERROR_ZERO_SIZE = 9,
    /**
     * The alignment is not a power of two, or too large.
     */
    CARVEOUT_ERROR_ALIGNMENT = 10,
    /**
     * Too few bytes are free.
     */
    CARVEOUT_ERROR_NO_CAPACITY = 11,
    /**
     * Enough bytes are free, and no run of them is long enough.
     */
    CARVEOUT_ERROR_FRAGMENTED = 12,
    /**
     * There is a run, and the device does not reach it.
     */
    CARVEOUT_ERROR_OUT_OF_REACH = 13,
    /**
     * All records of the kind are in use: of buffers, pools or contracts.
     */
    CARVEOUT_ERROR_NO_RECORD = 14,
    /**
     * The contract declares no such buffer.
     */
    CARVEOUT_ERROR_NOT_DECLARED = 15,
    /**
     * All buffers of the size that the contract declares are allocated.
     */
    CARVEOUT_ERROR_CONTRACT_EXCEEDED = 16,
    /**
     * The contract cannot be promised.
     */
    CARVEOUT_ERROR_CONTRACT = 17,
    /**
     * The handle names nothing: it was freed, or never given.
     */
    CARVEOUT_ERROR_STALE = 18,
    /**
     * The handle names something of another kind.
     */
    CARVEOUT_ERROR_KIND = 19,
    /**
     * The buffer's direction is another one, or the number is no direction.
     */
    CARVEOUT_ERROR_DIRECTION = 20,
    /**
     * The buffer was allocated for another device.
     */
    CARVEOUT_ERROR_OTHER_DEVICE = 21,
    /**
     * The buffer has another size.
     */
    CARVEOUT_ERROR_SIZE = 22,
    /**
     * The buffer lies at another address.
     */
    CARVEOUT_ERROR_ADDRESS = 23,
    /**
     * The device owns the buffer.
     */
    CARVEOUT_ERROR_DEVICE_OWNS = 24,
    /**
     * The CPU owns the buffer.
     */
    CARVEOUT_ERROR_CPU_OWNS = 25,
    /**
     * The buffer is in quarantine.
     */
    CARVEOUT_ERROR_QUARANTINED = 26,
    /**
     * Another core has the buffer in hand just now.
     */
    CARVEOUT_ERROR_BUSY = 27,
    /**
     * Bytes are named that the buffer does not have.
     */
    CARVEOUT_ERROR_RANGE = 28,
    /**
     * No pool can have blocks like that.
     */
    CARVEOUT_ERROR_POOL_SHAPE = 29,
    /**
     * All blocks of the pool are out.
     */
    CARVEOUT_ERROR_POOL_EXHAUSTED = 30,
    /**
     * Blocks of the pool did not come back.
     */
    CARVEOUT_ERROR_BLOCKS_OUT = 31,
    /**
     * Buffers of the device did not come back.
     */
    CARVEOUT_ERROR_BUFFERS_OUT = 32,
    /**
     * The audit found something wrong.
     */
    CARVEOUT_ERROR_AUDIT = 33,
    /**
     * The outer cache cannot be used.
     */
    CARVEOUT_ERROR_OUTER_CACHE = 34,
    /**
     * The core's registers are not those of the core that called `carveout_init`.
     */
    CARVEOUT_ERROR_CORE = 35,
    /**
     * The area is not the kernel's: it was taken.
     */
    CARVEOUT_ERROR_TAKEN = 36,
    /**
     * The area is the kernel's: it was not taken yet, or was given back.
     */
    CARVEOUT_ERROR_NOT_TAKEN = 37,
    /**
     * The kernel's mappings of the area were not ended.
     */
    CARVEOUT_ERROR_UNMAP = 38,
    /**
     * A table still maps a page of the area, or may.
     */
    CARVEOUT_ERROR_STILL_MAPPED = 39,
    /**
     * A buffer or a contract has a part of the area.
     */
    CARVEOUT_ERROR_HELD = 40,
    /**
     * The CPU wrote to a stream that only the device writes.
     */
    CARVEOUT_ERROR_WRITTEN = 41,
    /**
     * Whole caches cannot be emptied, or may be already.
     */
    CARVEOUT_ERROR_EMPTYING = 42,
    /**
     * `carveout_share_init` has not succeeded yet.
     */
    CARVEOUT_ERROR_NOT_SHARING = 43,
    /**
     * `carveout_share_init` has succeeded before.
     */
    CARVEOUT_ERROR_SHARING = 44,
    /**
     * Nothing of the name was granted to the client.
     */
    CARVEOUT_ERROR_NO_NAME = 45,
    /**
     * The handle does not give the rights, or the number stands for none.
     */
    CARVEOUT_ERROR_RIGHTS = 46,
    /**
     * The client would pay for more bytes than its quota.
     */
    CARVEOUT_ERROR_QUOTA = 47,
    /**
     * The client has no address space.
     */
    CARVEOUT_ERROR_NO_SPACE = 48,
    /**
     * The client's address space has no room.
     */
    CARVEOUT_ERROR_NO_ROOM = 49,
    /**
     * The client has the pages mapped already.
     */
    CARVEOUT_ERROR_MAPPED = 50,
    /**
     * The buffer would fall into too many parts.
     */
    CARVEOUT_ERROR_TOO_MANY_PARTS = 51,
    /**
     * The number is no view.
     */
    CARVEOUT_ERROR_VIEW = 52,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_error carveout_error;
#else
typedef int32_t carveout_error;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why a program's access faulted.
 */
enum carveout_fault
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * No page of a shared buffer is there, or was. The kernel ends the process.
     */
    CARVEOUT_FAULT_NOT_SHARED = 0,
    /**
     * A device has the page. The kernel may wait until that has finished, or end the process.
     */
    CARVEOUT_FAULT_DEVICE = 1,
    /**
     * The page is in another domain. `carveout_share_set_cpu` of this page makes the access succeed.
     */
    CARVEOUT_FAULT_DOMAIN = 2,
    /**
     * The client has not the right. The kernel ends the process.
     */
    CARVEOUT_FAULT_RIGHTS = 3,
    /**
     * What the client had there was revoked. The kernel ends the process.
     */
    CARVEOUT_FAULT_REVOKED = 4,
    /**
     * The access is permitted: another core changed the domain since. The program goes on.
     */
    CARVEOUT_FAULT_AGAIN = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_fault carveout_fault;
#else
typedef uint32_t carveout_fault;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What lies at an address.
 */
enum carveout_place
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Nothing of the module's.
     */
    CARVEOUT_PLACE_NOT_OURS = 0,
    /**
     * A buffer.
     */
    CARVEOUT_PLACE_BUFFER = 1,
    /**
     * The page after a buffer, which is never mapped.
     */
    CARVEOUT_PLACE_GUARD = 2,
    /**
     * A page of an area that no buffer has.
     */
    CARVEOUT_PLACE_FREE = 3,
    /**
     * A page of the window that no buffer has.
     */
    CARVEOUT_PLACE_UNUSED = 4,
    /**
     * It is not known: another core or the interrupted code has the records.
     */
    CARVEOUT_PLACE_BUSY = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_place carveout_place;
#else
typedef uint32_t carveout_place;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Who may access a buffer.
 */
enum carveout_holder
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Nobody: it is being made.
     */
    CARVEOUT_HOLDER_NOBODY = 0,
    /**
     * The CPU.
     */
    CARVEOUT_HOLDER_CPU = 1,
    /**
     * The device, and nobody else.
     */
    CARVEOUT_HOLDER_DEVICE = 2,
    /**
     * CPU and device.
     */
    CARVEOUT_HOLDER_BOTH = 3,
    /**
     * A device, perhaps: it was given up while a device owned it. Its memory is never used again.
     */
    CARVEOUT_HOLDER_QUARANTINE = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_holder carveout_holder;
#else
typedef uint32_t carveout_holder;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Who writes a stream: Linux's `enum dma_data_direction`, with its numbers.
 *
 */
enum carveout_direction
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * CPU and device write and read, in turns.
     */
    CARVEOUT_BIDIRECTIONAL = 0,
    /**
     * The CPU writes and the device reads.
     */
    CARVEOUT_TO_DEVICE = 1,
    /**
     * The device writes and the CPU reads.
     */
    CARVEOUT_FROM_DEVICE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_direction carveout_direction;
#else
typedef uint32_t carveout_direction;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a client may do with pages. Functions take sums of these numbers.
 */
enum carveout_right
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Its programs read them, and devices that work for it.
     */
    CARVEOUT_RIGHT_READ = 1,
    /**
     * They write them.
     */
    CARVEOUT_RIGHT_WRITE = 2,
    /**
     * It grants them to others, with rights that it has itself.
     */
    CARVEOUT_RIGHT_RESHARE = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_right carveout_right;
#else
typedef uint32_t carveout_right;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a buffer is mapped, for the kernel and for every process, as long as it lives.
 */
enum carveout_view
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Write-back.
     */
    CARVEOUT_VIEW_CACHED = 0,
    /**
     * Normal memory, non-cacheable: writes combine, and no line is maintained.
     */
    CARVEOUT_VIEW_WRITE_COMBINING = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum carveout_view carveout_view;
#else
typedef uint32_t carveout_view;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A run of physical memory in whole pages of 4 KiB.
 */
struct carveout_range {
    /**
     * The first byte.
     */
    uint32_t base;
    /**
     * The number of bytes, 1 page or more.
     */
    uint32_t bytes;
};

/**
 * An area: memory that is the module's alone. No table maps any of it, from the instruction that turned the MMU on. Or
 * it is late: the kernel's own RAM, mapped as the kernel likes, until `carveout_take_area`.
 */
struct carveout_area {
    /**
     * Its name in reports, in UTF-8, at most 31 bytes.
     */
    const char *name;
    /**
     * Its runs of memory: one, or one for each bank of RAM that it lies in.
     */
    const struct carveout_range *ranges;
    /**
     * How many there are, 1 to 8.
     */
    size_t range_count;
    /**
     * Whether it is late: 0 or 1.
     */
    uint32_t late;
};

/**
 * RAM that answers at a second range of physical addresses.
 */
struct carveout_alias {
    /**
     * The second addresses.
     */
    struct carveout_range range;
    /**
     * The first of the addresses that the kernel uses for that RAM.
     */
    uint32_t of;
};

/**
 * A cache between the cores and memory that the cores' own maintenance does not reach: a PL310, by its registers, or
 * one that other functions operate. Those may call a monitor of the secure world.
 */
struct carveout_outer_cache {
    /**
     * Where the kernel has the registers of a PL310 mapped as Device memory, for good, and only the module writes
     * them. It is turned on if it is off. NULL stands for none: then the three functions are called.
     */
    void *pl310;
    /**
     * Whether the kernel runs in the non-secure world, which may not turn a PL310 on: 0 or 1.
     */
    uint32_t non_secure;
    /**
     * The bytes of a line, for the functions: a power of two from 4 to 4096.
     */
    uint32_t line;
    /**
     * Starts to write the dirty lines of `bytes` bytes from a physical address on to memory. Both are multiples of
     * `line`.
     */
    void (*clean)(void *context, uint32_t phys, size_t bytes);
    /**
     * Starts to drop all lines of these bytes, dirty ones too.
     */
    void (*invalidate)(void *context, uint32_t phys, size_t bytes);
    /**
     * Returns when all that was started is done, and no buffer of the cache holds an access that came before.
     */
    void (*wait)(void *context);
    /**
     * The first argument of each of the three. Any core may call them at any time, with interrupts masked.
     */
    void *context;
};

/**
 * What a kernel gives the module. It may throw this away, and all that it points to, when `carveout_init` returned.
 */
struct carveout_kernel {
    /**
     * The areas. Functions name an area by its place in this list.
     */
    const struct carveout_area *areas;
    /**
     * How many there are, 1 to 32.
     */
    size_t area_count;
    /**
     * The board's aliases. NULL stands for none.
     */
    const struct carveout_alias *aliases;
    /**
     * How many there are, at most 4.
     */
    size_t alias_count;
    /**
     * The first of the addresses that buffers are mapped at, a multiple of 1 MiB. Nothing else uses these addresses:
     * the first-level table has zeros for them, and only the module writes there from here on.
     */
    uint32_t window;
    /**
     * The number of addresses in MiB: what `carveout_needs` says.
     */
    uint32_t window_sections;
    /**
     * The physical address of the second-level tables of these addresses, a multiple of 1 KiB: 1 KiB for each MiB.
     * Only the module uses them.
     */
    uint32_t tables;
    /**
     * The physical addresses of all first-level tables that translate the window, where there is one for each process.
     * Tables that are copied from one of them later need not be named. NULL stands for one table for all, which TTBR0
     * or TTBR1 has now.
     */
    const uint32_t *roots;
    /**
     * How many there are.
     */
    size_t root_count;
    /**
     * The buffers for which there are records from the start. 0 stands for 1024. More records are asked of `alloc`
     * when few are left.
     */
    uint32_t buffers;
    /**
     * The outer cache. NULL stands for none, or for one that is off.
     */
    const struct carveout_outer_cache *outer_cache;
    /**
     * Whether the window may be too small for an unmapped page on either side of every buffer: 0 or 1.
     */
    uint32_t spare_guards;
    /**
     * Whether the module looks for writes of the CPU to streams that are `CARVEOUT_FROM_DEVICE`: 0 or 1. It then reads
     * such a stream whenever the CPU gets it, and once more whenever the device gets it. That costs time, and is for
     * finding mistakes. It looks at as many streams as `buffers` says.
     */
    uint32_t check_writes;
    /**
     * Returns where the kernel has `bytes` from a physical address on: mapped write-back and writable, one after
     * another, for good. Returns NULL where it does not. It is asked for the memory that tables are in, which is never
     * an area's.
     */
    void *(*phys_to_virt)(void *context, uint32_t phys, size_t bytes);
    /**
     * Gives `size` bytes of the kernel's memory, at a multiple of `align`, or NULL. It is called by `carveout_init`
     * and by the functions that say so, with interrupts masked by some. It calls nothing of the module.
     */
    void *(*alloc)(void *context, size_t size, size_t align);
    /**
     * Takes back what `alloc` gave.
     */
    void (*free)(void *context, void *memory, size_t size, size_t align);
    /**
     * The first argument of each of the three.
     */
    void *context;
};

/**
 * What a kernel must have ready.
 */
struct carveout_kernel_needs {
    /**
     * The MiB of addresses that the window needs for an unmapped page on either side of every buffer.
     */
    uint32_t window_sections;
    /**
     * The fewest MiB of addresses that it can do with, where `spare_guards` is 1.
     */
    uint32_t least_sections;
    /**
     * The bytes that `carveout_init` asks of `alloc`. What pools, contracts and sharing ask for comes on top.
     */
    size_t heap_bytes;
    /**
     * The blocks in which it asks for them.
     */
    size_t heap_blocks;
};

/**
 * A refusal, for whoever wants to know more than its number.
 */
struct carveout_failure {
    /**
     * What was wrong. It is `Ok` if nothing was.
     */
    carveout_error code;
    /**
     * A line that says it with the figures, in UTF-8. It is empty if nothing was wrong, and cut off if it is too long.
     */
    char line[192];
};

/**
 * The other cores, which may hold lines of a buffer, and how to have each of them do something.
 */
struct carveout_other_cores {
    /**
     * How many there are at most, besides the one that asks.
     */
    uint32_t count;
    /**
     * Has every other core that is coherent call `work(argument)`, with its interrupts masked and after what it was
     * doing before, and returns when all have done so: by an interrupt to each of them. A core that sleeps and did not
     * empty its caches is woken. One that becomes coherent later empties its caches before. It is called with
     * interrupts masked, and by two cores at a time: a core that waits in it does meanwhile what the other asks.
     */
    void (*each)(void *context, void (*work)(void *argument), void *argument);
    /**
     * The first argument of `each`.
     */
    void *context;
};

/**
 * One entry of a bus's `dma-ranges`.
 */
struct carveout_aperture {
    /**
     * The first bus address.
     */
    uint32_t bus;
    /**
     * The first byte of the memory behind it.
     */
    uint32_t phys;
    /**
     * The number of bytes, 1 to 4 GiB.
     */
    uint64_t bytes;
};

/**
 * A contract, or none if `id` is 0.
 */
struct carveout_contract {
    /**
     * Its identity, which no other contract gets later.
     */
    uint64_t id;
};

/**
 * A device that accesses memory by itself: what Linux keeps in `struct device`. The kernel fills it in. All zeros but
 * for the name is a device that drives 32 bits of address, on a bus without translation, with the first area.
 */
struct carveout_device {
    /**
     * Its name in tables and reports, in UTF-8: at most 31 bytes, unlike the name of any other device. What needs it
     * later copies it.
     */
    const char *name;
    /**
     * The area that its buffers come from: a place among the areas that `carveout_init` got.
     */
    uint32_t area;
    /**
     * The last bus address that it can drive, Linux's `dma_mask`; 0 stands for 0xffffffff.
     */
    uint32_t dma_mask;
    /**
     * The alignment of its buffers on the bus, a power of two in bytes; 0 stands for a page of 4 KiB.
     */
    uint32_t align;
    /**
     * None of its buffers crosses a multiple of this on the bus, a power of two of 4 KiB or more; 0 stands for no
     * limit. It is one more than Linux's `dma_get_seg_boundary`.
     */
    uint32_t boundary;
    /**
     * The `dma-ranges` of its bus; NULL stands for bus addresses that are physical ones.
     */
    const struct carveout_aperture *apertures;
    /**
     * How many there are, at most 4.
     */
    size_t aperture_count;
    /**
     * The contract that its buffers come from; all zeros stands for none.
     */
    struct carveout_contract contract;
};

/**
 * Where a device finds a buffer or a block, and which one it is.
 */
struct carveout_dma_handle {
    /**
     * Its identity, which no other buffer or block gets later. 0 is none.
     */
    uint64_t id;
    /**
     * The bus address to program into the device. A stream's must not be told to the device before
     * `carveout_sync_single_for_device`.
     */
    uint32_t addr;
};

/**
 * A pool of small coherent blocks for a device, or none if `id` is 0.
 */
struct carveout_pool {
    /**
     * Its identity, which no other pool gets later.
     */
    uint64_t id;
};

/**
 * Equal buffers that a contract promises.
 */
struct carveout_set {
    /**
     * How many, 1 or more.
     */
    uint32_t count;
    /**
     * The bytes of each.
     */
    uint32_t bytes;
    /**
     * The alignment of each on the bus, a power of two in bytes; 0 stands for a page of 4 KiB.
     */
    uint32_t align;
};

/**
 * How many there can be of each at a time.
 */
struct carveout_share_limits {
    /**
     * Clients: processes and drivers.
     */
    uint16_t clients;
    /**
     * Handles, of all buffers and clients together.
     */
    uint16_t handles;
    /**
     * Shared buffers.
     */
    uint16_t buffers;
    /**
     * Leases of devices.
     */
    uint16_t leases;
};

/**
 * A client that shares buffers, or none if `id` is 0.
 */
struct carveout_client {
    /**
     * Its identity, which no other client gets later.
     */
    uint64_t id;
};

/**
 * The address space of a process. What C passes is copied. Each of its functions may be called by several cores at a
 * time, with interrupts as they are. None calls the module. All bytes are whole pages of 4 KiB.
 */
struct carveout_space {
    /**
     * The physical address of the first-level table that TTBR0 holds while the process runs.
     */
    uint32_t first_level;
    /**
     * Reserves `bytes` of the process's addresses, and what tables their pages need. It returns the first one, a
     * multiple of 4 KiB, or 0 if there is no room.
     */
    uint32_t (*reserve)(void *context, size_t bytes);
    /**
     * Gives back what was reserved, at which nothing is mapped.
     */
    void (*release)(void *context, uint32_t va, size_t bytes);
    /**
     * Writes descriptors of small pages for reserved addresses, at which nothing is mapped: `descriptor` for the first
     * page, and 0x1000 more for each page after it. Type, rights, nG and XN are in it, and none is changed (I1). It
     * cleans them where walks do not look in the data cache, and passes a DSB and an ISB. It does not fail.
     */
    void (*map)(void *context, uint32_t va, uint32_t descriptor, size_t bytes);
    /**
     * Writes zeros over the descriptors of these addresses, some of which may be zeros. It cleans them where walks do
     * not look in the data cache, passes a DSB, invalidates the TLBs of all cores for these addresses of the process
     * (its ASID), and passes a DSB and an ISB. It does not fail.
     */
    void (*unmap)(void *context, uint32_t va, size_t bytes);
    /**
     * The first argument of each of the four.
     */
    void *context;
};

/**
 * What a client's handle gives it of a shared buffer, or nothing if `id` is 0.
 */
struct carveout_share {
    /**
     * Its identity, which no other handle gets later.
     */
    uint64_t id;
};

/**
 * Pages for another client.
 */
struct carveout_offer {
    /**
     * Who gets them.
     */
    struct carveout_client to;
    /**
     * What it may do: a sum of `carveout_right`.
     */
    uint32_t rights;
    /**
     * The first page, counted from the first one of the handle that they come from.
     */
    uint32_t first;
    /**
     * How many there are, 1 or more.
     */
    uint32_t count;
    /**
     * The name by which it finds them, in UTF-8, at most 31 bytes.
     */
    const char *name;
};

/**
 * Pages that a device has, or none if `id` is 0.
 */
struct carveout_lease {
    /**
     * Its identity, which no other lease gets later.
     */
    uint64_t id;
    /**
     * The bus address to program into the device.
     */
    uint32_t addr;
};

/**
 * The page of a fault that is `CARVEOUT_FAULT_DOMAIN`.
 */
struct carveout_fault_page {
    /**
     * The handle.
     */
    struct carveout_share share;
    /**
     * The page, counted from the first one of the handle.
     */
    uint32_t page;
    /**
     * What `carveout_share_set_cpu` is to be asked for.
     */
    uint32_t access;
};

/**
 * What a client has of a shared buffer.
 */
struct carveout_share_record {
    /**
     * The client's name.
     */
    char client[32];
    /**
     * The buffer's name, as the client knows it.
     */
    char buffer[32];
    /**
     * The name of the client that pays for the buffer.
     */
    char paid_by[32];
    /**
     * The first page, counted from the buffer's first one.
     */
    uint32_t first;
    /**
     * How many pages there are.
     */
    uint32_t count;
    /**
     * A sum of `carveout_right`.
     */
    uint32_t rights;
    /**
     * Where the client has the pages mapped; 0 if it has not.
     */
    uint32_t va;
};

/**
 * What changes of domains took.
 */
struct carveout_share_counts {
    /**
     * Calls that changed the domain of pages.
     */
    uint32_t changes;
    /**
     * Calls that found pages in the domain that they asked for, so that nothing was due.
     */
    uint32_t free;
    /**
     * Mappings of processes made.
     */
    uint32_t mapped;
    /**
     * Mappings of processes ended.
     */
    uint32_t unmapped;
};

/**
 * The cache lines that a buffer took, inside and outside of the cores.
 */
struct carveout_share_effort {
    /**
     * Lines cleaned.
     */
    uint64_t cleaned;
    /**
     * Lines invalidated.
     */
    uint64_t invalidated;
};

/**
 * What is known of a buffer.
 */
struct carveout_record {
    /**
     * The name of the device that it was allocated for.
     */
    char owner[32];
    /**
     * Who may access it.
     */
    carveout_holder holder;
    /**
     * Its first byte in physical memory.
     */
    uint32_t phys;
    /**
     * Its bytes in whole pages.
     */
    uint32_t bytes;
    /**
     * The bytes that were asked for.
     */
    uint32_t size;
    /**
     * The address at which the CPU has it whenever it is mapped; NULL if it never was.
     */
    void *cpu_addr;
    /**
     * How many buffers were allocated before it.
     */
    uint64_t born;
};

/**
 * What is free in an area, in bytes.
 */
struct carveout_room {
    /**
     * In all.
     */
    uint64_t bytes;
    /**
     * In the largest run.
     */
    uint64_t largest;
};

/**
 * What was counted since `carveout_init`.
 */
struct carveout_counts {
    /**
     * Cache lines cleaned, inside and outside of the cores.
     */
    uint64_t cleaned;
    /**
     * Cache lines invalidated, inside and outside of the cores.
     */
    uint64_t invalidated;
    /**
     * Mappings made and ended.
     */
    uint64_t map_changes;
    /**
     * Buffers allocated.
     */
    uint64_t allocations;
    /**
     * Bytes filled with zeros before a new owner got them.
     */
    uint64_t zeroed;
    /**
     * Bytes in quarantine.
     */
    uint64_t quarantined;
};

/**
 * What the audit compares the tables with.
 */
struct carveout_expected {
    /**
     * Every run of RAM that the board has, areas or not.
     */
    const struct carveout_range *ram;
    /**
     * How many there are, 1 to 16.
     */
    size_t ram_count;
    /**
     * The kernel's text, which alone executes.
     */
    struct carveout_range text;
    /**
     * The physical addresses of the first-level tables that TTBR0 does not hold now: those of the processes that do
     * not run. NULL stands for none.
     */
    const uint32_t *roots;
    /**
     * How many there are.
     */
    size_t root_count;
};

/**
 * What the audit found to be right.
 */
struct carveout_audit_report {
    /**
     * Sections of 1 MiB that the tables have.
     */
    uint32_t sections;
    /**
     * Large pages of 64 KiB.
     */
    uint32_t large_pages;
    /**
     * Small pages of 4 KiB.
     */
    uint32_t small_pages;
    /**
     * Pages of RAM that are mapped write-back outside of the window.
     */
    uint32_t direct_frames;
    /**
     * Pages of areas that are mapped in the window.
     */
    uint32_t window_frames;
    /**
     * Pages of areas that processes have, as clients of shared buffers.
     */
    uint32_t user_pages;
    /**
     * Pages of areas in all.
     */
    uint32_t carved_frames;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Returns the text of an error. The text is never NULL, and lasts for ever.
 */
const char *carveout_strerror(carveout_error error);

/**
 * Writes to `needs` what a kernel must have ready for its areas: `areas`, `area_count`, `buffers` and `check_writes`
 * count. It may be called before `carveout_init`, at any time.
 */
carveout_error carveout_needs(const struct carveout_kernel *kernel,
                              struct carveout_kernel_needs *needs,
                              struct carveout_failure *why);

/**
 * Takes over what a kernel gives. The MMU and the caches are on, and this runs on one core while no other calls the
 * module. The first buffer can be allocated at once, from an area that is not late. It needs 8 KiB of stack.
 */
carveout_error carveout_init(const struct carveout_kernel *kernel,
                             struct carveout_failure *why);

/**
 * Checks that the core which this runs on may use the module: that its registers give the tables the meaning that they
 * have on the core that called `carveout_init`. Each further core calls it once, when its MMU and its caches are on,
 * before it touches a buffer. It changes nothing.
 */
carveout_error carveout_check_core(struct carveout_failure *why);

/**
 * Permits that whole caches are emptied where a stream that changes hands has at least eight times their lines. What
 * it then costs does not grow with the stream. Without this call lines go one by one. A kernel that cannot wait for
 * other cores does not call it. It is called once, when all cores that are to run do.
 *
 * `others` is NULL on a machine of one core: then no other core is ever coherent with it. With an outer cache that
 * functions operate lines go one by one all the same. This uses the kernel's `alloc`.
 */
carveout_error carveout_permit_emptying(const struct carveout_other_cores *others,
                                        struct carveout_failure *why);

/**
 * Takes an area from the kernel: a place among the areas that `carveout_init` got, which is late or was given back.
 * From here on its memory can be allocated. Nothing of the kernel's is there, and no device uses it. What it holds is
 * lost.
 *
 * `unmap` is called with each range of the area, and ends the kernel's mappings of it: it writes zeros over their
 * descriptors, cleans those where walks do not look in the data cache, and passes a DSB. It invalidates no TLB. It
 * returns `true`, or `false` if it cannot: then the area is refused. It calls nothing of the module.
 *
 * If `unmap` is NULL, the module does so itself. Then each descriptor that maps some of the area must map no more than
 * one range of it: sections of 1 MiB, for an area of whole sections. The module writes to the tables that
 * `phys_to_virt` reaches, and nobody else does meanwhile.
 *
 * Either way the module then reads all tables, and refuses the area if one still maps a page of it. Then it
 * invalidates the TLBs of all cores. If it refused, the area is the kernel's as before, which may map again what was
 * unmapped.
 *
 * `roots` are the physical addresses of the first-level tables that TTBR0 does not hold now and may hold later: those
 * of the processes that do not run, and of other cores. NULL stands for none. This is not for
 * interrupt handlers.
 *
 * # Safety
 *
 * `roots` is NULL, or points to `root_count` addresses. `unmap` is NULL, or may be called with `context`.
 */
carveout_error carveout_take_area(uint32_t area,
                                  const uint32_t *roots,
                                  size_t root_count,
                                  bool (*unmap)(void *context, uint32_t phys, size_t bytes),
                                  void *context,
                                  struct carveout_failure *why);

/**
 * Gives an area to the kernel, which may map it from here on, and use it as any RAM. It holds zeros. No buffer and no
 * contract may have a part of it. It can be taken again. This is not for interrupt handlers.
 */
carveout_error carveout_give_back_area(uint32_t area,
                                       struct carveout_failure *why);

/**
 * Allocates a coherent buffer: Linux's `dma_alloc_coherent`, which has `gfp` for `why`. CPU and device share it, and
 * see what the other wrote after `carveout_dma_wmb`, `carveout_dma_rmb` and `carveout_wmb`. It is filled with zeros.
 *
 * Returns its first byte for the CPU, aligned to 4 KiB, and writes to `dma_handle` where the device finds it. Returns
 * NULL if it refused. No call moves a buffer while it lives.
 */
void *carveout_alloc_coherent(const struct carveout_device *dev,
                              size_t size,
                              struct carveout_dma_handle *dma_handle,
                              struct carveout_failure *why);

/**
 * Frees a coherent buffer: Linux's `dma_free_coherent`. The device has finished with it, and forgot its address.
 */
carveout_error carveout_free_coherent(const struct carveout_device *dev,
                                      size_t size,
                                      void *cpu_addr,
                                      struct carveout_dma_handle dma_handle,
                                      struct carveout_failure *why);

/**
 * Allocates a stream: Linux's `dma_alloc_noncoherent`, which has `gfp` for `why`. It is write-back memory that is the
 * CPU's and the device's in turns, the CPU's at first. It is filled with zeros.
 *
 * Returns its first byte for the CPU, aligned to 4 KiB, and writes to `dma_handle` where the device will find it.
 * Returns NULL if it refused. While the device owns it, any access to the CPU's address faults. The CPU does not write
 * to one that is `CARVEOUT_FROM_DEVICE`.
 */
void *carveout_alloc_noncoherent(const struct carveout_device *dev,
                                 size_t size,
                                 struct carveout_dma_handle *dma_handle,
                                 carveout_direction dir,
                                 struct carveout_failure *why);

/**
 * Frees a stream that the CPU owns: Linux's `dma_free_noncoherent`.
 */
carveout_error carveout_free_noncoherent(const struct carveout_device *dev,
                                         size_t size,
                                         void *cpu_addr,
                                         struct carveout_dma_handle dma_handle,
                                         carveout_direction dir,
                                         struct carveout_failure *why);

/**
 * Hands a stream to the device: Linux's `dma_sync_single_for_device`. All that the CPU wrote is cleaned, and the CPU's
 * address faults from here on. After it the device may be told of the address.
 *
 * A stream that is `CARVEOUT_FROM_DEVICE` is not cleaned. Where the kernel has `check_writes`, one that the CPU wrote
 * to is refused, now and at each further call: it can be freed. What does not show is a write of the value that was
 * there, and one after the bytes that were asked for.
 *
 * `size` is at most the buffer's. The whole buffer changes hands, whatever it is.
 */
carveout_error carveout_sync_single_for_device(const struct carveout_device *dev,
                                               struct carveout_dma_handle dma_handle,
                                               size_t size,
                                               carveout_direction dir,
                                               struct carveout_failure *why);

/**
 * Takes a stream back from the device: Linux's `dma_sync_single_for_cpu`. The device has finished with it, and said so
 * in a register, or in memory that was read before. The CPU may use its address from here on, and finds what the
 * device wrote.
 *
 * The device wrote nothing after the first `size` bytes. The whole buffer changes hands.
 */
carveout_error carveout_sync_single_for_cpu(const struct carveout_device *dev,
                                            struct carveout_dma_handle dma_handle,
                                            size_t size,
                                            carveout_direction dir,
                                            struct carveout_failure *why);

/**
 * Takes a stream back from a device that wrote only `size` bytes from `offset` on: Linux's
 * `dma_sync_single_range_for_cpu`. It is `carveout_sync_single_for_cpu` otherwise.
 */
carveout_error carveout_sync_single_range_for_cpu(const struct carveout_device *dev,
                                                  struct carveout_dma_handle dma_handle,
                                                  size_t offset,
                                                  size_t size,
                                                  carveout_direction dir,
                                                  struct carveout_failure *why);

/**
 * Allocates a buffer for devices alone: Linux's `dma_alloc_attrs` with `DMA_ATTR_NO_KERNEL_MAPPING`. One device writes
 * it and another reads it. It has no address for the CPU. It is filled with zeros.
 *
 * Writes to `dma_handle` where the device finds it.
 */
carveout_error carveout_alloc_device_only(const struct carveout_device *dev,
                                          size_t size,
                                          struct carveout_dma_handle *dma_handle,
                                          struct carveout_failure *why);

/**
 * Frees a buffer of devices alone. All devices have finished with it, and forgot its address.
 */
carveout_error carveout_free_device_only(const struct carveout_device *dev,
                                         size_t size,
                                         struct carveout_dma_handle dma_handle,
                                         struct carveout_failure *why);

/**
 * Gives up a buffer that a device may still use: one that does not answer any more. Its memory is never used again.
 * `carveout_next_quarantined` tells of it. A stream that the CPU owns is refused, for it can be freed.
 */
carveout_error carveout_quarantine(const struct carveout_device *dev,
                                   struct carveout_dma_handle dma_handle,
                                   struct carveout_failure *why);

/**
 * Passes the barrier between two writes to coherent memory that a device polls, such as a descriptor and the word that
 * makes it valid: Linux's `dma_wmb`.
 */
void carveout_dma_wmb(void);

/**
 * Passes the barrier between two reads of coherent memory that a device writes, such as a completion word and what it
 * says is complete: Linux's `dma_rmb`.
 */
void carveout_dma_rmb(void);

/**
 * Passes the barrier after which devices see all that was written to coherent memory: Linux's `wmb`. It stands before
 * the register write that tells a device to go.
 */
void carveout_wmb(void);

/**
 * Makes a pool of `blocks` blocks of `size` bytes: Linux's `dma_pool_create`. It takes all its memory now. The bus
 * address of each block is a multiple of `align`, a power of two. No block crosses a multiple of `boundary`, a power
 * of two; 0 stands for no limit. The device's `align` and `contract` do not count.
 *
 * Returns a pool whose `id` is 0 if it refused. It uses the kernel's `alloc` and `free`.
 */
struct carveout_pool carveout_pool_create(const struct carveout_device *dev,
                                          size_t size,
                                          size_t align,
                                          size_t boundary,
                                          uint32_t blocks,
                                          struct carveout_failure *why);

/**
 * Takes a block, filled with zeros: Linux's `dma_pool_zalloc`, which has `gfp` for `why`. It maps nothing and waits
 * for nobody but who uses a pool just now, so an interrupt handler may call it.
 *
 * Returns its first byte for the CPU, and writes to `dma_handle` where the device finds it. Returns NULL if it
 * refused.
 */
void *carveout_pool_alloc(struct carveout_pool pool,
                          struct carveout_dma_handle *dma_handle,
                          struct carveout_failure *why);

/**
 * Puts a block back: Linux's `dma_pool_free`. The device has finished with it, and forgot its address.
 */
carveout_error carveout_pool_free(struct carveout_pool pool,
                                  void *cpu_addr,
                                  struct carveout_dma_handle dma_handle,
                                  struct carveout_failure *why);

/**
 * Ends a pool and frees its memory: Linux's `dma_pool_destroy`. All its blocks must be back. It
 * uses the kernel's `free`.
 */
carveout_error carveout_pool_destroy(struct carveout_pool pool, struct carveout_failure *why);

/**
 * Promises the device that these buffers can always be allocated, whatever others take. Each gets its place now. A
 * `carveout_device` whose `contract` it is allocates by it. `set_count` is at most 16.
 *
 * Returns a contract whose `id` is 0 if it refused. It uses the kernel's `alloc` and `free`, with interrupts masked.
 *
 * # Safety
 *
 * `sets` is NULL, or points to `set_count` sets.
 */
struct carveout_contract carveout_contract_create(const struct carveout_device *dev,
                                                  const struct carveout_set *sets,
                                                  size_t set_count,
                                                  struct carveout_failure *why);

/**
 * Ends a contract. Buffers that were allocated by it live on. It uses the kernel's `free`.
 */
carveout_error carveout_contract_destroy(struct carveout_contract contract, struct carveout_failure *why);

/**
 * Makes sharing possible, with so many clients, handles, buffers and leases at a time. It is called once. It uses the
 * kernel's `alloc` and `free`; no other function of sharing does.
 */
carveout_error carveout_share_init(const struct carveout_share_limits *limits,
                                   struct carveout_failure *why);

/**
 * Adds a client: a process with its address space, or a driver, whose `space` is NULL. It makes no buffer by which it
 * would pay for more than `quota` bytes. `name` is UTF-8, at most 31 bytes.
 *
 * Returns a client whose `id` is 0 if it refused.
 *
 * # Safety
 *
 * `name` is NULL, or a string that ends with a NUL.
 */
struct carveout_client carveout_client_add(const char *name,
                                           const struct carveout_space *space,
                                           uint64_t quota,
                                           struct carveout_failure *why);

/**
 * Removes a client that is gone, and gives up all that it had. What it has mapped is unmapped. When this returns no
 * function of its address space runs, and none is called again. Buffers that others have handles of live on.
 *
 * Writes to `handles` how many it gave up.
 */
carveout_error carveout_client_remove(struct carveout_client client,
                                      uint32_t *handles,
                                      struct carveout_failure *why);

/**
 * Writes to `bytes` what a client pays for.
 */
carveout_error carveout_client_paid(struct carveout_client client,
                                    uint64_t *bytes,
                                    struct carveout_failure *why);

/**
 * Makes a buffer of zeros that `client` pays for, in whole pages, which are nobody's at first. The client gets all
 * rights to all pages. `dev` says from which area, and what must reach it; its `align` and `contract` do not count.
 *
 * Returns a handle whose `id` is 0 if it refused.
 *
 * # Safety
 *
 * `name` is NULL, or a string that ends with a NUL.
 */
struct carveout_share carveout_share_create(struct carveout_client client,
                                            const struct carveout_device *dev,
                                            size_t size,
                                            carveout_view view,
                                            const char *name,
                                            struct carveout_failure *why);

/**
 * Grants pages to another client, which finds them by their name or is told the handle.
 *
 * Returns the other client's handle, whose `id` is 0 if it refused.
 */
struct carveout_share carveout_share_offer(struct carveout_client client,
                                           struct carveout_share share,
                                           const struct carveout_offer *offer,
                                           struct carveout_failure *why);

/**
 * Returns the handle of what was granted to a client last under a name. Its `id` is 0 if it refused.
 *
 * # Safety
 *
 * `name` is NULL, or a string that ends with a NUL.
 */
struct carveout_share carveout_share_find(struct carveout_client client,
                                          const char *name,
                                          struct carveout_failure *why);

/**
 * Gives up what a client was granted. What it granted to others stays theirs. The last one that gives a buffer up
 * frees it, or leaves it in quarantine if a device has pages of it.
 */
carveout_error carveout_share_close(struct carveout_client client,
                                    struct carveout_share share,
                                    struct carveout_failure *why);

/**
 * Ends all that was granted from this handle, by whomever. When it returns, no core translates to the buffer for any
 * of those clients.
 *
 * Writes to `revoked` how many handles that were.
 */
carveout_error carveout_share_revoke(struct carveout_client client,
                                     struct carveout_share share,
                                     uint32_t *revoked,
                                     struct carveout_failure *why);

/**
 * Maps all pages of a handle into its client's address space. They are there while they are the CPU's: writable if the
 * client has the right, and somebody asked for that.
 *
 * Writes to `va` the address of the first page, which stays the same until `carveout_share_unmap`.
 */
carveout_error carveout_share_map(struct carveout_client client,
                                  struct carveout_share share,
                                  uint32_t *va,
                                  struct carveout_failure *why);

/**
 * Ends what `carveout_share_map` mapped, if anything is mapped.
 */
carveout_error carveout_share_unmap(struct carveout_client client,
                                    struct carveout_share share,
                                    struct carveout_failure *why);

/**
 * Makes `count` pages from `first` on the CPU's, for programs that read (`CARVEOUT_RIGHT_READ`), or read and write
 * (`CARVEOUT_RIGHT_READ + CARVEOUT_RIGHT_WRITE`). Every client that has them mapped gets them. Pages count from the
 * first one of the handle.
 */
carveout_error carveout_share_set_cpu(struct carveout_client client,
                                      struct carveout_share share,
                                      uint32_t first,
                                      uint32_t count,
                                      uint32_t access,
                                      struct carveout_failure *why);

/**
 * Makes `count` pages from `first` on a device's. From here on nothing maps them. A device that only reads them may
 * have them together with others that do, if all have the same pages.
 *
 * Returns the lease, whose `addr` is for the device. Its `id` is 0 if it refused.
 */
struct carveout_lease carveout_share_lend(struct carveout_client client,
                                          struct carveout_share share,
                                          uint32_t first,
                                          uint32_t count,
                                          const struct carveout_device *dev,
                                          carveout_direction dir,
                                          struct carveout_failure *why);

/**
 * Takes the pages of a lease back from the device, which has finished with them, and said so. They are nobody's until
 * a client asks for them. A lease that was finished is refused.
 */
carveout_error carveout_share_finish(struct carveout_lease lease,
                                     struct carveout_failure *why);

/**
 * Returns why an access of a client's program to `va` faulted: a read, or a write if `writes` is 1. It waits for the
 * call under way on the buffer.
 *
 * Of `CARVEOUT_FAULT_DOMAIN` it writes the page to `page`. It writes a line about the place to `line`, which has room
 * for `line_size` characters. Either may be NULL. Nothing is written if no page of a shared buffer is there.
 *
 * # Safety
 *
 * `line` is NULL, or points to `line_size` characters.
 */
carveout_fault carveout_share_fault(struct carveout_client client,
                                    uint32_t va,
                                    uint32_t writes,
                                    struct carveout_fault_page *page,
                                    char *line,
                                    size_t line_size);

/**
 * Calls `each` with what every client has of every shared buffer, in no particular order, and `context`. A handle that
 * comes or goes meanwhile may be among them or not. `each` may call every function of the module.
 *
 * # Safety
 *
 * `each` may be called with `context`.
 */
carveout_error carveout_for_each_share(void (*each)(void *context, const struct carveout_share_record *record),
                                       void *context,
                                       struct carveout_failure *why);

/**
 * Writes to `counts` what was counted since `carveout_share_init`.
 */
carveout_error carveout_share_count(struct carveout_share_counts *counts, struct carveout_failure *why);

/**
 * Writes to `effort` what a client's buffer took so far.
 */
carveout_error carveout_share_effort(struct carveout_client client,
                                     struct carveout_share share,
                                     struct carveout_share_effort *effort,
                                     struct carveout_failure *why);

/**
 * Returns what lies at an address of the window, for a fault report. It never waits.
 *
 * Of a buffer or a guard it writes the buffer's record to `record`. It writes a line about the place to `line`, which
 * has room for `line_size` characters. Either may be NULL. Nothing is written about an address that is not the
 * module's.
 *
 * # Safety
 *
 * `line` is NULL, or points to `line_size` characters.
 */
carveout_place carveout_place_of(const void *cpu_addr,
                                 struct carveout_record *record,
                                 char *line,
                                 size_t line_size);

/**
 * Returns what lies at a physical address, for a fault report. It never waits. It is `carveout_place_of` otherwise.
 *
 * # Safety
 *
 * `line` is NULL, or points to `line_size` characters.
 */
carveout_place carveout_place_of_phys(uint32_t phys,
                                      struct carveout_record *record,
                                      char *line,
                                      size_t line_size);

/**
 * Calls `each` with the record of every buffer, in no particular order, and `context`. A buffer that comes or goes
 * meanwhile may be among them or not. `each` may call every function of the module.
 *
 * # Safety
 *
 * `each` may be called with `context`.
 */
carveout_error carveout_for_each_holder(void (*each)(void *context, const struct carveout_record *record),
                                        void *context,
                                        struct carveout_failure *why);

/**
 * Checks that a device which goes away has given back all its buffers. `carveout_for_each_holder` names those that it
 * has.
 */
carveout_error carveout_retire(const struct carveout_device *dev,
                               struct carveout_failure *why);

/**
 * Writes to `record` a buffer that was given up while a device may still use it. Returns whether there was one. Each
 * is told once. It never waits.
 */
bool carveout_next_quarantined(struct carveout_record *record);

/**
 * Writes to `room` what is free in an area, a place among the areas that `carveout_init` got.
 */
carveout_error carveout_area_room(uint32_t area, struct carveout_room *room, struct carveout_failure *why);

/**
 * Writes to `counts` what was counted.
 */
carveout_error carveout_count(struct carveout_counts *counts, struct carveout_failure *why);

/**
 * Walks the live tables as the hardware would. Checks that each page of an area is mapped as the module has it and
 * nowhere else, but for the pages of shared buffers, which the processes have that may; and that the registers and all
 * other descriptors are as the module relies on. Calls `each` with a line
 * for each finding, and `context`. It runs with interrupts masked, and `each` calls nothing of the module.
 *
 * Writes to `report` what it found to be right.
 *
 * # Safety
 *
 * `each` is NULL, or may be called with `context`.
 */
carveout_error carveout_audit(const struct carveout_expected *expected,
                              void (*each)(void *context, const char *line),
                              void *context,
                              struct carveout_audit_report *report,
                              struct carveout_failure *why);

/**
 * Ends the program, after it told somebody of `message`. The kernel defines it. The module calls it if it finds
 * that one of its own promises is broken, and never for what it is passed. It does not return.
 */
extern void carveout_panic(const char *message);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* CARVEOUT_H */
