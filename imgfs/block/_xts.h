/* XTS with AES in the widest vectors that the processor has: see _xts.c. */

#ifndef IMGFS_XTS_H
#define IMGFS_XTS_H

#include <stddef.h>

extern int xts_lanes; /* blocks of the widest register that may be used; 0: only the library */

/* Decrypt ``count`` sectors in place; ``vectors``, 16 bytes for each, become the tweaks. ``half`` is 16 or 32
 * bytes: ``key`` has that of the data first, that of the vectors behind it. Return 0, with nothing done, where this
 * processor, or this size of sectors, needs the library. */
int xts_wide(const unsigned char *key, size_t half, unsigned char *vectors, size_t count, size_t sector,
             unsigned char *data);

#endif
