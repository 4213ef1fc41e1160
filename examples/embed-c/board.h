/* The board: QEMU's `virt`, as far as this kernel uses it. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

#define MIB 0x100000u

/* RAM, all of which the kernel maps, and the part of it that the module has later. */
#define RAM 0x40000000u
#define RAM_BYTES (128 * MIB)
#define GIVEN 0x46000000u
#define GIVEN_BYTES (8 * MIB)

/* Addresses for the module's buffers: three images of what it is given, and its own section. */
#define WINDOW 0xc0000000u
#define WINDOW_SECTIONS 32u

/* Where the second-level tables of those addresses are: in the last MiB before what the module is given. */
#define TABLES (GIVEN - MIB)

/* The first-level table: a word for each MiB of addresses. */
extern uint32_t first_level[4096];

/* Maps these whole sections of RAM where they are, write-back; or ends that. No TLB is invalidated. */
void map_ram(uint32_t from, uint32_t bytes);
void unmap_ram(uint32_t from, uint32_t bytes);

/* Ends the emulator with an exit code. */
void end_with(int code) __attribute__((noreturn));

/* Print on the console: text, a number in decimal or hexadecimal digits. */
void say(const char *text);
void say_decimal(uint64_t number);
void say_hex(uint64_t number);

static inline uint32_t read_register(uint32_t address)
{
    return *(volatile uint32_t *)(uintptr_t)address;
}

static inline void write_register(uint32_t address, uint32_t word)
{
    *(volatile uint32_t *)(uintptr_t)address = word;
}

#endif
