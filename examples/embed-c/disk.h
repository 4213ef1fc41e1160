/* A driver for a virtio block device over MMIO (virtio 1.1, 4.2 and 5.2). */
#ifndef DISK_H
#define DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "carveout.h"

#define SECTOR 512u

struct disk {
    struct carveout_device device;
    uint32_t registers;
    uint64_t sectors;
    /* Queue, request and status, which CPU and device share. */
    struct disk_shared *shared;
    struct carveout_dma_handle shared_dma;
    uint16_t seen;
};

/* Finds a disk and starts it. Returns false if there is none, or the module refuses memory: `why` says so. */
bool disk_start(struct disk *disk, struct carveout_failure *why);

/* Has the device read `sectors` from `first` on to a bus address. Returns false if it did not. */
bool disk_read(struct disk *disk, uint64_t first, uint32_t sectors, uint32_t bus);

/* Resets the device, so that it forgets every address, and frees what it shared. */
carveout_error disk_stop(struct disk *disk, struct carveout_failure *why);

#endif
