/* A kernel in C that embeds the module: it reads a disk, and tries what it should not do. */
#include <stdbool.h>

#include "board.h"
#include "carveout.h"
#include "disk.h"
#include "misuse.h"
#include "share.h"

#define PART (64u * 1024u)

/* --- what the module asks of a kernel ------------------------------------------------------------------------------ */

static uint8_t heap[512 * 1024] __attribute__((aligned(16)));
static size_t heap_used;

/* Gives memory, and takes none back: this kernel has no other use for it. */
static void *heap_alloc(void *context, size_t size, size_t align)
{
    size_t from = (heap_used + align - 1) & ~(align - 1);
    (void)context;
    if (from > sizeof heap || size > sizeof heap - from) {
        return NULL;
    }
    heap_used = from + size;
    return &heap[from];
}

static void heap_free(void *context, void *memory, size_t size, size_t align)
{
    (void)context, (void)memory, (void)size, (void)align;
}

/* RAM is mapped where it is. No table lies in the part that the module has, so it is not asked for. */
static void *where_mapped(void *context, uint32_t phys, size_t bytes)
{
    (void)context;
    if (phys < RAM || phys - RAM > RAM_BYTES || bytes > RAM_BYTES - (phys - RAM)) {
        return NULL;
    }
    return (void *)(uintptr_t)phys;
}

/* The module asks for this part of RAM. */
static bool unmap(void *context, uint32_t phys, size_t bytes)
{
    (void)context;
    unmap_ram(phys, bytes);
    return true;
}

void carveout_panic(const char *message)
{
    say("panic: ");
    say(message);
    say("\n");
    end_with(3);
}

/* --- faults --------------------------------------------------------------------------------------------------------- */

/* Told of each data abort. The instruction is passed over when this returns. */
void data_abort(uint32_t address, uint32_t status)
{
    char line[160];
    if (program_fault(address, status)) {
        return;
    }
    carveout_place place =
        carveout_place_of((const void *)(uintptr_t)address, NULL, line, sizeof line);
    if (place == CARVEOUT_PLACE_NOT_OURS) {
        place = carveout_place_of_phys(address, NULL, line, sizeof line); /* where this kernel had its RAM */
    }
    say("fault: ");
    say_hex(address);
    if (place == CARVEOUT_PLACE_NOT_OURS) {
        say(": nothing of the module's, status ");
        say_hex(status);
        say("\n");
        end_with(4);
    }
    say(": ");
    say(line);
    say("\n");
}

/* --- the story ------------------------------------------------------------------------------------------------------ */

struct carveout_failure why;

void fail(const char *what)
{
    say("error: ");
    say(what);
    say(": ");
    say(carveout_strerror(why.code));
    say(": ");
    say(why.line);
    say("\n");
    end_with(1);
}

void must_be(carveout_error expected, const char *what)
{
    say(why.code == expected ? "refused: " : "error: not refused as it should be: ");
    say(what);
    say(": ");
    say(carveout_strerror(why.code));
    say(": ");
    say(why.line);
    say("\n");
    if (why.code != expected) {
        end_with(1);
    }
}

extern uint32_t stack_bottom[];

/* Fills the stack below the caller's frame, so that it shows later what was used. */
static __attribute__((noinline)) uint32_t *paint_stack(void)
{
    uint32_t *here = __builtin_frame_address(0);
    for (volatile uint32_t *word = stack_bottom; word < here - 64; word++) {
        *word = 0x57ac57ac;
    }
    return here;
}

static uint32_t stack_used(const uint32_t *from)
{
    const volatile uint32_t *word = stack_bottom;
    while (*word == 0x57ac57ac) {
        word++;
    }
    return (uint32_t)((uintptr_t)from - (uintptr_t)word);
}

/* What the module is given may be thrown away afterwards: all of it is on the stack. */
static void start_module(void)
{
    static uint32_t no_registers[1024];
    const struct carveout_outer_cache no_cache = {.pl310 = no_registers};
    const struct carveout_range ranges[] = {{.base = GIVEN, .bytes = GIVEN_BYTES}};
    const struct carveout_area areas[] = {{.name = "media", .ranges = ranges, .range_count = 1, .late = 1}};
    struct carveout_kernel kernel = {
        .areas = areas,
        .area_count = 1,
        .window = WINDOW,
        .window_sections = WINDOW_SECTIONS,
        .tables = TABLES,
        .outer_cache = &no_cache,
        .check_writes = 1,
        .phys_to_virt = where_mapped,
        .alloc = heap_alloc,
        .free = heap_free,
    };
    struct carveout_kernel_needs needs;
    carveout_init(&kernel, &why);
    must_be(CARVEOUT_ERROR_OUTER_CACHE, "an outer cache that is not there");
    kernel.outer_cache = NULL; /* those of these cores are their own */
    size_t before = heap_used;
    const uint32_t *stack = paint_stack();
    if (carveout_needs(&kernel, &needs, &why) || carveout_init(&kernel, &why)) {
        fail("carveout_init");
    }
    uint32_t used = stack_used(stack);
    if (heap_used - before > needs.heap_bytes + 8 * needs.heap_blocks) {
        fail("more heap was taken than was told");
    }
    say("module: ");
    say_decimal(heap_used - before);
    say(" bytes of heap, told in advance ");
    say_decimal(needs.heap_bytes);
    say("; ");
    say_decimal(used);
    say(" bytes of stack\n");
    if (carveout_check_core(&why)) {
        fail("carveout_check_core");
    }
}

/* The memory is the kernel's own, used and in its caches, until the module takes it. */
static void take_memory(bool by_callback)
{
    for (uint32_t at = GIVEN; at < GIVEN + GIVEN_BYTES; at += 64) {
        *(volatile uint32_t *)(uintptr_t)at = at;
    }
    if (carveout_take_area(0, NULL, 0, by_callback ? unmap : NULL, NULL, &why)) {
        fail("carveout_take_area");
    }
    say(by_callback ? "taken, unmapped by the kernel\n" : "taken, unmapped by the module\n");
}

static void give_memory_back(void)
{
    if (carveout_give_back_area(0, &why)) {
        fail("carveout_give_back_area");
    }
    map_ram(GIVEN, GIVEN_BYTES);
    for (uint32_t at = GIVEN; at < GIVEN + GIVEN_BYTES; at += 64) { /* a word of each line */
        if (*(volatile uint32_t *)(uintptr_t)at) {
            fail("memory that came back is not zeros");
        }
    }
    say("given back: zeros\n");
}

/* FNV-1a. */
static uint64_t hash_of(uint64_t hash, const uint8_t *bytes, size_t count)
{
    for (size_t n = 0; n < count; n++) {
        hash = (hash ^ bytes[n]) * 0x100000001b3u;
    }
    return hash;
}

static void read_disk(struct disk *disk)
{
    struct carveout_dma_handle dma;
    uint64_t hash = 0xcbf29ce484222325u;
    uint8_t *part = carveout_alloc_noncoherent(&disk->device, PART, &dma, CARVEOUT_FROM_DEVICE, &why);
    if (!part) {
        fail("carveout_alloc_noncoherent");
    }
    for (uint64_t first = 0; first < disk->sectors; first += PART / SECTOR) {
        uint64_t left = disk->sectors - first;
        uint32_t sectors = left < PART / SECTOR ? (uint32_t)left : PART / SECTOR;
        if (carveout_sync_single_for_device(&disk->device, dma, PART, CARVEOUT_FROM_DEVICE, &why)) {
            fail("carveout_sync_single_for_device");
        }
        if (!disk_read(disk, first, sectors, dma.addr)) {
            fail("the disk did not read");
        }
        if (carveout_sync_single_for_cpu(&disk->device, dma, sectors * SECTOR, CARVEOUT_FROM_DEVICE, &why)) {
            fail("carveout_sync_single_for_cpu");
        }
        hash = hash_of(hash, part, sectors * SECTOR);
    }
    if (carveout_free_noncoherent(&disk->device, PART, part, dma, CARVEOUT_FROM_DEVICE, &why)) {
        fail("carveout_free_noncoherent");
    }
    say("disk: ");
    say_decimal(disk->sectors);
    say(" sectors, FNV-1a ");
    say_hex(hash);
    say("\n");
}

static void print_finding(void *context, const char *line)
{
    (void)context;
    say("finding: ");
    say(line);
    say("\n");
}

void audit(void)
{
    static const struct carveout_range ram[] = {{.base = RAM, .bytes = RAM_BYTES}};
    static const struct carveout_expected expected = {
        .ram = ram,
        .ram_count = 1,
        .text = {.base = RAM, .bytes = MIB},
    };
    struct carveout_audit_report report;
    if (carveout_audit(&expected, print_finding, NULL, &report, &why)) {
        fail("carveout_audit");
    }
    say("audit: clean, ");
    say_decimal(report.window_frames);
    say(" of ");
    say_decimal(report.carved_frames);
    say(" pages mapped, and ");
    say_decimal(report.user_pages);
    say(" for programs\n");
}

void kernel_main(void)
{
    static struct disk disk;
    struct carveout_dma_handle dma;
    const struct carveout_device early = {.name = "early"};
    start_module();
    carveout_alloc_coherent(&early, 4096, &dma, &why);
    must_be(CARVEOUT_ERROR_NOT_TAKEN, "a buffer of memory that is still the kernel's");
    take_memory(false);
    say("a look where the kernel had it\n");
    (void)*(volatile uint32_t *)(uintptr_t)GIVEN;
    misuse_of_a_core();
    if (!disk_start(&disk, &why)) {
        fail("no disk");
    }
    read_disk(&disk);
    misuse();
    audit();
    share(&disk);
    if (disk_stop(&disk, &why)) {
        fail("disk_stop");
    }
    give_memory_back();
    take_memory(true);
    audit();
    say("embed-c: ok\n");
    end_with(0);
}
