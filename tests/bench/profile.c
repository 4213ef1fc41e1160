/*
 * A plugin of QEMU (plugin API 1): counts executed instructions by address between two markers, the addresses on= and
 * off= of two functions of the guest, and writes "ADDRESS COUNT" lines to out= at exit. tests/bench/profile.sh builds
 * and reads it.
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

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

/* Instructions of an image of at most 4 MiB. */
enum { WORDS = 1 << 20 };
static const uint64_t image = 0xff000000;
static uint64_t counts[WORDS];
static uint64_t on_at, off_at;
static bool on;
static const char *out;

static void executed(unsigned cpu, void *data)
{
	uint64_t word = (uintptr_t)data;

	(void)cpu;
	if (image + 4 * word == on_at)
		on = true;
	else if (image + 4 * word == off_at)
		on = false;
	else
		counts[word] += on;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
	(void)id;
	for (size_t n = 0; n < qemu_plugin_tb_n_insns(block); n++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, n);
		uint64_t word = (qemu_plugin_insn_vaddr(insn) - image) / 4;

		if (word < WORDS)
			qemu_plugin_register_vcpu_insn_exec_cb(insn, executed, NO_REGISTERS, (void *)(uintptr_t)word);
	}
}

static void finish(qemu_plugin_id_t id, void *data)
{
	FILE *file = fopen(out, "w");

	(void)id, (void)data;
	for (uint64_t word = 0; file && word < WORDS; word++)
		if (counts[word])
			fprintf(file, "%#" PRIx64 " %" PRIu64 "\n", image + 4 * word, counts[word]);
	if (!file || fclose(file))
		perror(out);
}

__attribute__((visibility("default")))
int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int count, char **arguments)
{
	(void)info;
	for (int n = 0; n < count; n++) {
		if (!strncmp(arguments[n], "on=", 3))
			on_at = strtoull(arguments[n] + 3, NULL, 0);
		else if (!strncmp(arguments[n], "off=", 4))
			off_at = strtoull(arguments[n] + 4, NULL, 0);
		else if (!strncmp(arguments[n], "out=", 4))
			out = strdup(arguments[n] + 4);
	}
	if (!on_at || !off_at || !out)
		return 1;
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, finish, NULL);
	return 0;
}
