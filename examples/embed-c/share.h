/* A process that shares a buffer with the disk. */
#ifndef SHARE_H
#define SHARE_H

#include <stdbool.h>

#include "disk.h"

/* A program's page is filled by the disk, and looked at. Each mistake of a program is answered with a line. */
void share(struct disk *disk);

/* Says why a program's access to an address faulted. Returns whether the address is a program's. */
bool program_fault(uint32_t address, uint32_t status);

#endif
