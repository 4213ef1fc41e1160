/*
 * A plugin of QEMU: counts the instructions that the guest executes, each one, from reset or between two markers.
 *
 * Arguments, addresses of the guest: on= and off= are two functions; between a call of the first and one of the second
 * is a window. Without on=, the only window is from reset to off=. locks= names a file of lines "t ADDRESS" and "f
 * ADDRESS": the instructions that take a lock and free it. At exit, out= gets
 *
 *     window ALL HELD TURNS LONGEST    for each window: instructions, those with a lock held, how often one was taken
 *                                      that was not within another, and the most instructions it was held for
 *     at ADDRESS COUNT                 for each address of the image that was executed in a window
 *
 * Instructions of before the MMU was on have physical addresses; those of the image are at the same offset from 1 MiB.
 * It counts one core. xtask/src/bench.rs builds it, for version 1 of QEMU's plugins or 2, and reads what it writes.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What it uses of qemu-plugin.h, which distributions seldom package. */
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_info;
enum { NO_REGISTERS };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = API;

/* Instructions of an image of at most 4 MiB, and a place for all that is elsewhere. */
enum { WORDS = 1 << 20, ELSEWHERE = WORDS, MIB = 1 << 20 };
enum kind { PLAIN, TAKES, FREES, ON, OFF };
static const uint64_t image = 0xff000000;
static uint64_t counts[WORDS + 1];
static uint8_t kinds[WORDS + 1];
static bool on;
static FILE *out;

static struct {
	uint64_t all, held, turns, longest;
} window;
/* Locks held, the instructions since the first was taken, and those since one was taken at all. */
static uint64_t depth, turn, since = 99;

static void end_of_window(void)
{
	if (on)
		fprintf(out, "window %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", window.all, window.held,
			window.turns, window.longest);
	memset(&window, 0, sizeof(window));
	on = false;
}

static void executed(unsigned cpu, void *data)
{
	uintptr_t word = (uintptr_t)data;

	(void)cpu;
	if (depth) {
		turn++;
		window.held += on;
		if (on && turn > window.longest)
			window.longest = turn;
	}
	since++;
	switch (kinds[word]) {
	case TAKES:
		/* An exclusive store that failed is executed again, a few instructions later. */
		if (since > 8 && !depth++) {
			turn = 0;
			window.turns += on;
		}
		since = 0;
		break;
	case FREES:
		depth -= depth > 0;
		break;
	case ON:
		end_of_window();
		on = true;
		return;
	case OFF:
		end_of_window();
		return;
	}
	if (on) {
		window.all++;
		counts[word]++;
	}
}

static uintptr_t word_of(uint64_t address)
{
	/* Where the head runs before the MMU is on. RAM begins at a multiple of 64 MiB. */
	uint64_t offset = address >= image ? address - image : address % (64 * MIB);

	return offset < 4 * MIB && (address >= image || address >= 0x60000000) ? offset / 4 : ELSEWHERE;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	for (size_t n = 0; n < qemu_plugin_tb_n_insns(block); n++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, n);
		uintptr_t word = word_of(qemu_plugin_insn_vaddr(insn));

		qemu_plugin_register_vcpu_insn_exec_cb(insn, executed, NO_REGISTERS, (void *)word);
	}
}

static void finish(qemu_plugin_id_t id, void *data)
{
	(void)id, (void)data;
	end_of_window();
	for (uint64_t word = 0; word < WORDS; word++)
		if (counts[word])
			fprintf(out, "at %#" PRIx64 " %" PRIu64 "\n", image + 4 * word, counts[word]);
	if (counts[ELSEWHERE])
		fprintf(out, "at 0x0 %" PRIu64 "\n", counts[ELSEWHERE]);
	if (fclose(out))
		perror("out=");
}

static bool read_locks(const char *name)
{
	FILE *file = fopen(name, "r");
	uint64_t address;
	char what;

	if (!file)
		return false;
	while (fscanf(file, " %c %" SCNx64, &what, &address) == 2)
		kinds[word_of(address)] = what == 't' ? TAKES : FREES;
	fclose(file);
	return true;
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int count, char **arguments)
{
	(void)info;
	on = true;
	for (int n = 0; n < count; n++) {
		char *value = strchr(arguments[n], '=') + 1;

		if (!strncmp(arguments[n], "on=", 3)) {
			kinds[word_of(strtoull(value, NULL, 0))] = ON;
			on = false;
		} else if (!strncmp(arguments[n], "off=", 4)) {
			kinds[word_of(strtoull(value, NULL, 0))] = OFF;
		} else if (!strncmp(arguments[n], "out=", 4)) {
			out = fopen(value, "w");
		} else if (!read_locks(value)) {
			return 1;
		}
	}
	if (!out)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}
