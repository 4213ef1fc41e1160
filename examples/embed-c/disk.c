/* The driver of the disk: one queue, one request at a time, polled. */
#include "disk.h"

#include <stddef.h>

#include "board.h"

/* 32 transports; QEMU gives the last one to its first device. */
#define TRANSPORTS 0x0a000000u
#define TRANSPORT_STEP 0x200u
#define TRANSPORT_COUNT 32u

enum {
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_NUM_MAX = 0x034,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0,
    CAPACITY = 0x100
};

#define MAGIC_VALUE 0x74726976u
#define BLOCK_DEVICE 2u
#define VERSION_1 (1u << 0) /* of the second word of features */

#define ACKNOWLEDGE 1u
#define DRIVER 2u
#define DRIVER_OK 4u
#define FEATURES_OK 8u

#define NEXT 1u
#define WRITE 2u

#define READ_REQUEST 0u
#define QUEUE_SIZE 8u

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

/* What CPU and device share. All of it is volatile: the device may change it at any time. */
struct disk_shared {
    volatile struct descriptor descriptors[QUEUE_SIZE];
    struct {
        volatile uint16_t flags;
        volatile uint16_t index;
        volatile uint16_t ring[QUEUE_SIZE];
    } available;
    struct {
        volatile uint16_t flags;
        volatile uint16_t index;
        volatile struct {
            uint32_t id;
            uint32_t length;
        } ring[QUEUE_SIZE];
    } used;
    struct {
        volatile uint32_t type;
        volatile uint32_t reserved;
        volatile uint64_t sector;
    } request;
    volatile uint8_t status;
};

static uint32_t get(const struct disk *disk, uint32_t offset)
{
    return read_register(disk->registers + offset);
}

static void set(const struct disk *disk, uint32_t offset, uint32_t word)
{
    write_register(disk->registers + offset, word);
}

static bool find(struct disk *disk)
{
    for (uint32_t n = TRANSPORT_COUNT; n-- > 0;) {
        disk->registers = TRANSPORTS + TRANSPORT_STEP * n;
        if (get(disk, MAGIC) == MAGIC_VALUE && get(disk, VERSION) == 2 && get(disk, DEVICE_ID) == BLOCK_DEVICE) {
            return true;
        }
    }
    return false;
}

static void reset(const struct disk *disk)
{
    set(disk, STATUS, 0);
    while (get(disk, STATUS) != 0) {
    }
}

static void set_address(const struct disk *disk, uint32_t offset, const volatile void *member)
{
    uint32_t within = (uint32_t)((uintptr_t)member - (uintptr_t)disk->shared);
    set(disk, offset, disk->shared_dma.addr + within);
    set(disk, offset + 4, 0);
}

bool disk_start(struct disk *disk, struct carveout_failure *why)
{
    disk->device = (struct carveout_device){.name = "disk"};
    if (!find(disk)) {
        return false;
    }
    disk->shared = carveout_alloc_coherent(&disk->device, sizeof *disk->shared, &disk->shared_dma, why);
    if (!disk->shared) {
        return false;
    }
    disk->seen = 0;
    reset(disk);
    set(disk, STATUS, ACKNOWLEDGE);
    set(disk, STATUS, ACKNOWLEDGE | DRIVER);
    set(disk, DRIVER_FEATURES_SEL, 0);
    set(disk, DRIVER_FEATURES, 0);
    set(disk, DRIVER_FEATURES_SEL, 1);
    set(disk, DRIVER_FEATURES, VERSION_1);
    set(disk, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    set(disk, QUEUE_SEL, 0);
    if (!(get(disk, STATUS) & FEATURES_OK) || get(disk, QUEUE_NUM_MAX) < QUEUE_SIZE) {
        return false;
    }
    set(disk, QUEUE_NUM, QUEUE_SIZE);
    set_address(disk, QUEUE_DESC, disk->shared->descriptors);
    set_address(disk, QUEUE_DRIVER, &disk->shared->available);
    set_address(disk, QUEUE_DEVICE, &disk->shared->used);
    carveout_wmb(); /* the queue's zeros are there before the device looks */
    set(disk, QUEUE_READY, 1);
    set(disk, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    disk->sectors = get(disk, CAPACITY) | (uint64_t)get(disk, CAPACITY + 4) << 32;
    return true;
}

static void describe(struct disk *disk, uint16_t n, uint32_t bus, uint32_t length, uint16_t flags)
{
    volatile struct descriptor *descriptor = &disk->shared->descriptors[n];
    descriptor->address = bus;
    descriptor->length = length;
    descriptor->flags = flags;
    descriptor->next = (uint16_t)(n + 1);
}

bool disk_read(struct disk *disk, uint64_t first, uint32_t sectors, uint32_t bus)
{
    struct disk_shared *shared = disk->shared;
    uint32_t at = disk->shared_dma.addr;
    shared->request.type = READ_REQUEST;
    shared->request.reserved = 0;
    shared->request.sector = first;
    shared->status = 0xff;
    describe(disk, 0, at + offsetof(struct disk_shared, request), sizeof shared->request, NEXT);
    describe(disk, 1, bus, sectors * SECTOR, NEXT | WRITE);
    describe(disk, 2, at + offsetof(struct disk_shared, status), 1, WRITE);
    shared->available.ring[disk->seen % QUEUE_SIZE] = 0;
    carveout_dma_wmb(); /* the request is there before the index that tells of it */
    shared->available.index = (uint16_t)(disk->seen + 1);
    carveout_wmb(); /* and the index before the register */
    set(disk, QUEUE_NOTIFY, 0);

    while (shared->used.index == disk->seen) {
    }
    carveout_dma_rmb(); /* the status is read after the index that tells of it */
    disk->seen++;
    set(disk, INTERRUPT_ACK, get(disk, INTERRUPT_STATUS));
    return shared->status == 0;
}

carveout_error disk_stop(struct disk *disk, struct carveout_failure *why)
{
    reset(disk);
    return carveout_free_coherent(&disk->device, sizeof *disk->shared, disk->shared, disk->shared_dma, why);
}
