/* What the module must refuse, and names. */
#include "misuse.h"

#include "board.h"

/* A core that checks no domain's rights: its tables mean something else. */
void misuse_of_a_core(void)
{
    __asm__ volatile("mcr p15, 0, %0, c3, c0, 0\n\tisb" ::"r"(0xc0000001u) : "memory");
    carveout_check_core(&why);
    __asm__ volatile("mcr p15, 0, %0, c3, c0, 0\n\tisb" ::"r"(1) : "memory");
    must_be(CARVEOUT_ERROR_CORE, "a core with other registers");
}

static void print_holder(void *context, const struct carveout_record *record)
{
    static const char *const holders[] = {"nobody", "CPU", "device", "both", "quarantine"};
    (void)context;
    say("holder: ");
    say(record->owner);
    say(" has ");
    say_decimal(record->size);
    say(" bytes at ");
    say_hex(record->phys);
    say(", accessed by ");
    say(holders[record->holder]);
    say("\n");
}

/* Everything that Rust's types would have refused to compile. */
void misuse(void)
{
    const struct carveout_device camera = {.name = "camera"};
    const struct carveout_device codec = {.name = "codec"};
    struct carveout_dma_handle ring_dma, frame_dma, block_dma;
    void *ring = carveout_alloc_coherent(&camera, 4096, &ring_dma, &why);
    volatile uint8_t *frame = carveout_alloc_noncoherent(&camera, 640 * 480 * 2, &frame_dma, CARVEOUT_FROM_DEVICE, &why);
    struct carveout_pool pool = carveout_pool_create(&camera, 64, 64, 0, 16, &why);
    void *block = carveout_pool_alloc(pool, &block_dma, &why);
    if (!ring || !frame || !block) {
        fail("buffers to misuse");
    }

    carveout_alloc_coherent(&camera, 0, &ring_dma, &why);
    must_be(CARVEOUT_ERROR_ZERO_SIZE, "a buffer of no bytes");
    carveout_alloc_coherent(&camera, 64 * MIB, &ring_dma, &why);
    must_be(CARVEOUT_ERROR_NO_CAPACITY, "a buffer larger than the area");
    carveout_alloc_coherent(NULL, 4096, &ring_dma, &why);
    must_be(CARVEOUT_ERROR_NULL_POINTER, "no device");
    carveout_free_coherent(&codec, 4096, ring, ring_dma, &why);
    must_be(CARVEOUT_ERROR_OTHER_DEVICE, "another device's buffer");
    carveout_free_coherent(&camera, 8192, ring, ring_dma, &why);
    must_be(CARVEOUT_ERROR_SIZE, "a free of another size");
    carveout_free_coherent(&camera, 640 * 480 * 2, (void *)frame, frame_dma, &why);
    must_be(CARVEOUT_ERROR_KIND, "a stream freed as a coherent buffer");
    carveout_sync_single_for_cpu(&camera, frame_dma, 640 * 480 * 2, CARVEOUT_FROM_DEVICE, &why);
    must_be(CARVEOUT_ERROR_CPU_OWNS, "a sync for the CPU, which owns it");
    carveout_sync_single_for_device(&camera, frame_dma, 640 * 480 * 2, CARVEOUT_TO_DEVICE, &why);
    must_be(CARVEOUT_ERROR_DIRECTION, "a sync in another direction");

    carveout_sync_single_for_device(&camera, frame_dma, 640 * 480 * 2, CARVEOUT_FROM_DEVICE, &why);
    say("a look while the device owns it\n");
    (void)frame[4096];
    carveout_sync_single_for_device(&camera, frame_dma, 640 * 480 * 2, CARVEOUT_FROM_DEVICE, &why);
    must_be(CARVEOUT_ERROR_DEVICE_OWNS, "a sync for the device, which owns it");
    carveout_free_noncoherent(&camera, 640 * 480 * 2, (void *)frame, frame_dma, CARVEOUT_FROM_DEVICE, &why);
    must_be(CARVEOUT_ERROR_DEVICE_OWNS, "a free while the device owns it");
    carveout_for_each_holder(print_holder, NULL, &why);
    carveout_retire(&camera, &why);
    must_be(CARVEOUT_ERROR_BUFFERS_OUT, "a device that goes away");

    carveout_pool_destroy(pool, &why);
    must_be(CARVEOUT_ERROR_BLOCKS_OUT, "the end of a pool that is in use");
    carveout_pool_free(pool, block, block_dma, &why);
    carveout_pool_free(pool, block, block_dma, &why);
    must_be(CARVEOUT_ERROR_STALE, "a block freed twice");
    carveout_pool_destroy(pool, &why);
    carveout_pool_alloc(pool, &block_dma, &why);
    must_be(CARVEOUT_ERROR_STALE, "a block of a pool that ended");

    carveout_sync_single_for_cpu(&camera, frame_dma, 640 * 480 * 2, CARVEOUT_FROM_DEVICE, &why);
    frame[4096] = 1;
    carveout_sync_single_for_device(&camera, frame_dma, 640 * 480 * 2, CARVEOUT_FROM_DEVICE, &why);
    must_be(CARVEOUT_ERROR_WRITTEN, "a stream that the device alone writes, written by the CPU");
    carveout_give_back_area(0, &why);
    must_be(CARVEOUT_ERROR_HELD, "the memory back while it is in use");
    carveout_free_noncoherent(&camera, 640 * 480 * 2, (void *)frame, frame_dma, CARVEOUT_FROM_DEVICE, &why);
    carveout_free_coherent(&camera, 4096, ring, ring_dma, &why);
    carveout_free_coherent(&camera, 4096, ring, ring_dma, &why);
    must_be(CARVEOUT_ERROR_STALE, "a buffer freed twice");
    if (carveout_retire(&camera, &why)) {
        fail("the camera has buffers left");
    }
}
