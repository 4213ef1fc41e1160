/* What the module must refuse. Each line is compared by the tests. */
#ifndef MISUSE_H
#define MISUSE_H

#include "carveout.h"

/* Why the last call refused. */
extern struct carveout_failure why;

/* Ends the kernel: this was refused. */
void fail(const char *what) __attribute__((noreturn));

/* What the module was asked, and must have refused so. */
void must_be(carveout_error expected, const char *what);

/* Has the tables compared with what they must be, and says what came of it. */
void audit(void);

/* Everything that Rust's types would have refused to compile. */
void misuse(void);

/* A core whose registers give the tables another meaning. */
void misuse_of_a_core(void);

#endif
