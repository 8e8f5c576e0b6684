/* XTS of one width, LANES blocks to a register; included by _xts.c once for each, with TARGET and what differs:
 * WIDE (a register), DECRYPT and LAST (rounds of FIPS 197, section 5.3.5), ENCRYPT and FINAL (of 5.1).
 *
 * REGISTERS of them are in flight, because a round takes several cycles and can start every one. */

#define JOIN(a, b) a##b
#define NAMED(name, lanes) JOIN(name, lanes)
#define words NAMED(words, LANES)
#define GROUP (16 * LANES * REGISTERS)

typedef uint64_t words __attribute__((vector_size(16 * LANES), may_alias));

/* Multiply each block by x^by, below 2^56: out of the high word comes what x^128 = x^7 + x^2 + x + 1 folds in. */
TARGET static inline words NAMED(times, LANES)(words block, words by) {
    words low, swap;
    for (int word = 0; word < 2 * LANES; word++) {
        low[word] = word & 1 ? 0 : ~(uint64_t)0;
        swap[word] = (uint64_t)word ^ 1;
    }
    words out = __builtin_shuffle(block >> 1 >> (63 - by), swap);
    words folded = out & low;
    return block << by ^ out ^ folded << 1 ^ folded << 2 ^ folded << 7;
}

TARGET static void NAMED(tweaked, LANES)(const struct schedule *keys, unsigned char *vectors, size_t count) {
    for (; count >= LANES; count -= LANES, vectors += sizeof(words)) {
        words block;
        memcpy(&block, vectors, sizeof block);
        block ^= *(const words *)keys->encrypt[0];
        for (int round = 1; round < keys->rounds; round++)
            block = (words)ENCRYPT((WIDE)block, *(const WIDE *)keys->encrypt[round]);
        block = (words)FINAL((WIDE)block, *(const WIDE *)keys->encrypt[keys->rounds]);
        memcpy(vectors, &block, sizeof block);
    }
    if (count) {
        unsigned char rest[sizeof(words)] = {0};
        memcpy(rest, vectors, 16 * count);
        NAMED(tweaked, LANES)(keys, rest, LANES);
        memcpy(vectors, rest, 16 * count);
    }
}

TARGET static void NAMED(sectors, LANES)(const struct schedule *keys, const unsigned char *vectors, size_t count,
                                         size_t sector, unsigned char *data) {
    words powers[REGISTERS];
    for (int i = 0; i < REGISTERS; i++)
        for (int word = 0; word < 2 * LANES; word++)
            powers[i][word] = (uint64_t)(i * LANES + word / 2);
    const words group = powers[0] - powers[0] + REGISTERS * LANES;
    for (; count; count--, vectors += 16) {
        words tweak;
        for (int lane = 0; lane < LANES; lane++)
            memcpy((unsigned char *)&tweak + 16 * lane, vectors, 16);
        for (size_t left = sector; left; left -= GROUP, data += GROUP) {
            words mask[REGISTERS], block[REGISTERS];
#pragma GCC unroll 8
            for (int i = 0; i < REGISTERS; i++) {
                mask[i] = NAMED(times, LANES)(tweak, powers[i]);
                memcpy(&block[i], data + i * sizeof(words), sizeof(words));
                block[i] ^= mask[i] ^ *(const words *)keys->decrypt[0];
            }
            for (int round = 1; round < keys->rounds; round++) {
                WIDE key = *(const WIDE *)keys->decrypt[round];
#pragma GCC unroll 8
                for (int i = 0; i < REGISTERS; i++)
                    block[i] = (words)DECRYPT((WIDE)block[i], key);
            }
            WIDE key = *(const WIDE *)keys->decrypt[keys->rounds];
#pragma GCC unroll 8
            for (int i = 0; i < REGISTERS; i++) {
                block[i] = (words)LAST((WIDE)block[i], key) ^ mask[i];
                memcpy(data + i * sizeof(words), &block[i], sizeof(words));
            }
            tweak = NAMED(times, LANES)(tweak, group);
        }
    }
}

#undef LANES
#undef WIDE
#undef TARGET
#undef DECRYPT
#undef LAST
#undef ENCRYPT
#undef FINAL
#undef words
#undef GROUP
#undef NAMED
#undef JOIN
