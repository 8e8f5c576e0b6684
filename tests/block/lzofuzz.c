/* lzofuzz SEEDS TURNS FILE...: decode damaged forms of what the files hold, each buffer of exactly its size.
 *
 * To be built with the sanitizers of the compiler, which end it at the first byte touched outside. A seed that
 * decodes says how much room there is; the damaged get that, less, or more. Prints how many decoded.
 */

#include <stdio.h>
#include <stdlib.h>
#include "../../imgfs/block/_lzo1x.h"

static uint64_t state;

static uint32_t chance(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static unsigned char *loaded(const char *name, size_t *length) {
    FILE *file = fopen(name, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        exit(2);
    *length = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*length);
    if (!data || fread(data, 1, *length, file) != *length)
        exit(2);
    fclose(file);
    return data;
}

int main(int count, char **words) {
    if (count < 4)
        return 2;
    state = strtoull(words[1], NULL, 10) * 2654435761u + 1;
    long turns = atol(words[2]), good = 0, wrong = 0;
    for (int seed = 3; seed < count; seed++) {
        size_t length, held, most = 1 << 17;
        unsigned char *whole = loaded(words[seed], &length), *out = malloc(most);
        if (lzo1x(whole, length, out, most, &held))
            return 3;
        free(out);
        for (long turn = 0; turn < turns; turn++) {
            size_t stored = chance(4) ? length : chance((uint32_t)length + 1);
            size_t room = chance(2) ? held : chance(2) ? chance((uint32_t)held + 1) : held + chance(64);
            unsigned char *in = malloc(stored), *to = malloc(room);
            memcpy(in, whole, stored);
            for (uint32_t left = chance(8); left && stored; left--) {
                uint32_t at = chance((uint32_t)stored);
                switch (chance(4)) {
                case 0: in[at] = (unsigned char)chance(256); break;
                case 1: in[at] ^= (unsigned char)(1u << chance(8)); break;
                case 2: in[at] = chance(2) ? 0 : 17; break;
                default:
                    for (uint32_t more = chance(16); more && at < stored; more--)
                        in[at++] = (unsigned char)chance(256);
                }
            }
            size_t found = 0;
            if (lzo1x(in, stored, to, room, &found))
                wrong++;
            else if (found > room)
                return 4;
            else
                good++;
            free(in);
            free(to);
        }
        free(whole);
    }
    printf("%ld %ld\n", good, wrong);
    return 0;
}
