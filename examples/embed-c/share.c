/* A process that shares a buffer with the disk: the address space that the module maps pages in, and a program's
 * accesses. The program is a few LDRT and STRT of this kernel's, which have a program's rights. */
#include "share.h"

#include "board.h"
#include "misuse.h"

#define PAGE 4096u
/* The process's addresses: one MiB, in the table that TTBR0 has. It is process 0, which is all there is. */
#define PROCESS 0x10000000u

static uint32_t pages[256] __attribute__((aligned(1024)));
/* The pages from here on are free. Nothing is given back before all is. */
static uint32_t next_page = 1;

/* Walks of these cores look in the data cache, so that a DSB is enough. */
static void publish(void)
{
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}

static uint32_t reserve(void *context, size_t bytes)
{
    uint32_t first = next_page;
    (void)context;
    if (bytes / PAGE >= 256 - first) {
        return 0;
    }
    next_page = first + bytes / PAGE + 1; /* and one that stays free */
    first_level[PROCESS / MIB] = (uint32_t)(uintptr_t)pages | 1;
    publish();
    return PROCESS + first * PAGE;
}

static void release(void *context, uint32_t va, size_t bytes)
{
    (void)context, (void)va, (void)bytes;
    next_page = 1;
}

static void map(void *context, uint32_t va, uint32_t descriptor, size_t bytes)
{
    (void)context;
    for (uint32_t n = 0; n < bytes / PAGE; n++) {
        pages[(va - PROCESS) / PAGE + n] = descriptor + n * PAGE;
    }
    publish();
}

static void unmap_pages(void *context, uint32_t va, size_t bytes)
{
    (void)context;
    for (uint32_t n = 0; n < bytes / PAGE; n++) {
        pages[(va - PROCESS) / PAGE + n] = 0;
    }
    publish();
    for (uint32_t at = va; at < va + bytes; at += PAGE) {
        __asm__ volatile("mcr p15, 0, %0, c8, c7, 1" ::"r"(at) : "memory"); /* TLBIMVA, of process 0 */
    }
    publish();
}

static uint32_t program_read(uint32_t va)
{
    uint32_t word = 0;
    __asm__ volatile("ldrt %0, [%1]" : "+r"(word) : "r"(va) : "memory");
    return word;
}

static void program_write(uint32_t va, uint32_t word)
{
    __asm__ volatile("strt %0, [%1]" ::"r"(word), "r"(va) : "memory");
}

static struct carveout_client program;

bool program_fault(uint32_t address, uint32_t status)
{
    struct carveout_fault_page page;
    char line[160] = "nothing of a shared buffer";
    if (address - PROCESS >= MIB) {
        return false;
    }
    carveout_fault fault = carveout_share_fault(program, address, status >> 11 & 1, &page, line, sizeof line);
    say("program: fault: ");
    say(line);
    say("\n");
    if (fault == CARVEOUT_FAULT_DOMAIN) { /* it is not tried again: the program does so below */
        if (carveout_share_set_cpu(program, page.share, page.page, 1, page.access, &why)) {
            fail("carveout_share_set_cpu");
        }
    }
    return true;
}

static void print_share(void *context, const struct carveout_share_record *record)
{
    (void)context;
    say("share: ");
    say(record->client);
    say(" has pages ");
    say_decimal(record->first);
    say(" to ");
    say_decimal(record->first + record->count - 1);
    say(" of ");
    say(record->buffer);
    say(", rights ");
    say_decimal(record->rights);
    say(", paid by ");
    say(record->paid_by);
    say("\n");
}

void share(struct disk *disk)
{
    static const struct carveout_share_limits limits = {.clients = 2, .handles = 4, .buffers = 1, .leases = 1};
    const struct carveout_space space = {
        .first_level = (uint32_t)(uintptr_t)first_level,
        .reserve = reserve,
        .release = release,
        .map = map,
        .unmap = unmap_pages,
    };
    uint32_t va;
    carveout_client_add("early", NULL, 0, &why);
    must_be(CARVEOUT_ERROR_NOT_SHARING, "a client before sharing is made possible");
    if (carveout_share_init(&limits, &why)) {
        fail("carveout_share_init");
    }
    struct carveout_client driver = carveout_client_add("disk's driver", NULL, 4 * PAGE, &why);
    program = carveout_client_add("program", &space, 0, &why);
    struct carveout_share film = carveout_share_create(driver, &disk->device, 4 * PAGE, CARVEOUT_VIEW_CACHED, "film", &why);
    const struct carveout_offer part =
        {.to = program, .rights = CARVEOUT_RIGHT_READ + CARVEOUT_RIGHT_WRITE, .first = 1, .count = 2, .name = "part"};
    struct carveout_share seen = carveout_share_offer(driver, film, &part, &why);
    if (!driver.id || !program.id || !film.id || !seen.id || carveout_share_map(program, seen, &va, &why)) {
        fail("a buffer to share");
    }
    carveout_for_each_share(print_share, NULL, &why);
    carveout_share_create(program, &disk->device, PAGE, CARVEOUT_VIEW_CACHED, "own", &why);
    must_be(CARVEOUT_ERROR_QUOTA, "a buffer of a client that pays for none");
    carveout_share_map(driver, film, &va, &why);
    must_be(CARVEOUT_ERROR_NO_SPACE, "a mapping for a driver");

    program_write(va, 1); /* faults, and is made possible */
    program_write(va, 0x6d6c6966);
    if (program_read(va) != 0x6d6c6966) {
        fail("the program's word");
    }
    (void)program_read(va + 2 * PAGE);
    struct carveout_lease lease = carveout_share_lend(driver, film, 0, 4, &disk->device, CARVEOUT_FROM_DEVICE, &why);
    if (!lease.id) {
        fail("carveout_share_lend");
    }
    (void)program_read(va);
    if (!disk_read(disk, 0, 4 * PAGE / SECTOR, lease.addr)) {
        fail("the disk did not read");
    }
    if (carveout_share_finish(lease, &why)) {
        fail("carveout_share_finish");
    }
    carveout_share_finish(lease, &why);
    must_be(CARVEOUT_ERROR_STALE, "a lease finished twice");

    (void)program_read(va + PAGE); /* faults, and is made possible */
    say("program: reads ");
    say_hex(program_read(va + PAGE));
    say(" where the disk has its sector 16\n");
    audit();
    if (carveout_share_revoke(driver, film, NULL, &why)) {
        fail("carveout_share_revoke");
    }
    (void)program_read(va + PAGE);
    carveout_share_unmap(program, seen, &why);
    must_be(CARVEOUT_ERROR_STALE, "a handle that was revoked");
    if (carveout_client_remove(program, NULL, &why) || carveout_client_remove(driver, NULL, &why)) {
        fail("carveout_client_remove");
    }
}
