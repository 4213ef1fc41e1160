/* The board: its table and its console. */
#include "board.h"

#define UART 0x09000000u
#define UARTDR 0x00u
#define UARTFR 0x18u
#define UARTFR_TXFF (1u << 5)

#define DEVICES_FIRST 0x080u
#define DEVICES_LAST 0x0a0u

/* Descriptors of sections (ARM ARM B3.5.1). Domain 0. */
#define SECTION 0x2u
#define WRITE_BACK (1u << 16 | 1u << 12 | 1u << 3 | 1u << 2) /* S, TEX = 1, C, B: write-allocate, Shareable */
#define DEVICE (1u << 2)
#define PRIVILEGED (1u << 10)
#define READ_ONLY (1u << 15)
#define NEVER_EXECUTE (1u << 4)

uint32_t first_level[4096] __attribute__((aligned(16384)));

/* Walks of these cores look in the data cache, so that a DSB is enough. A new mapping is used after the ISB. */
static void publish(void)
{
    __asm__ volatile("dsb\n\tisb" ::: "memory");
}

void map_ram(uint32_t from, uint32_t bytes)
{
    for (uint32_t n = from / MIB; n < (from + bytes) / MIB; n++) {
        uint32_t rights = n == RAM / MIB ? READ_ONLY | PRIVILEGED : PRIVILEGED | NEVER_EXECUTE;
        first_level[n] = n * MIB | SECTION | WRITE_BACK | rights;
    }
    publish();
}

void unmap_ram(uint32_t from, uint32_t bytes)
{
    for (uint32_t n = from / MIB; n < (from + bytes) / MIB; n++) {
        first_level[n] = 0;
    }
    publish();
}

/* Called with the MMU and the caches off, so that what it writes is in memory. */
void fill_table(void)
{
    map_ram(RAM, RAM_BYTES);
    for (uint32_t n = DEVICES_FIRST; n <= DEVICES_LAST; n++) {
        first_level[n] = n * MIB | SECTION | DEVICE | PRIVILEGED | NEVER_EXECUTE;
    }
}

static void say_byte(char byte)
{
    while (read_register(UART + UARTFR) & UARTFR_TXFF) {
    }
    write_register(UART + UARTDR, (uint8_t)byte);
}

void say(const char *text)
{
    for (; *text; text++) {
        if (*text == '\n') {
            say_byte('\r');
        }
        say_byte(*text);
    }
}

void say_decimal(uint64_t number)
{
    char digits[21];
    size_t n = sizeof digits - 1;
    digits[n] = 0;
    do {
        digits[--n] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    say(&digits[n]);
}

void say_hex(uint64_t number)
{
    int shift = 60;
    say("0x");
    while (shift > 0 && !(number >> shift)) {
        shift -= 4;
    }
    for (; shift >= 0; shift -= 4) {
        say_byte("0123456789abcdef"[number >> shift & 15]);
    }
}
