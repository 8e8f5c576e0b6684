/* XTS with AES in the widest vectors that the processor has.
 *
 * The library's XTS is as wide, but wants a call for each sector, which costs more than 512 bytes take to decrypt;
 * its ECB, with the tweaks added before and after, is half as wide here. Nothing depends on the key but the
 * operands of instructions: there are no tables to leak it by.
 *
 * Sources: IEEE Std 1619-2007, section 5; FIPS 197; Shay Gueron, Intel AES New Instructions Set, 2010 (key
 * expansion, and the inverse cipher's keys by AESIMC).
 */

#include "_xts.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define REGISTERS 8
#define LANES_MAX 4

struct schedule { /* round keys, each as often as the widest register has lanes */
    int rounds;
    unsigned char encrypt[15][16 * LANES_MAX] __attribute__((aligned(64)));
    unsigned char decrypt[15][16 * LANES_MAX] __attribute__((aligned(64)));
};

__attribute__((target("aes,sse4.1"))) static void expand(struct schedule *keys, const unsigned char *key, size_t size) {
    uint32_t word[60];
    int four = (int)size / 4;
    keys->rounds = four + 6;
    memcpy(word, key, size);
    for (int i = four, constant = 1; i < 4 * (keys->rounds + 1); i++) {
        uint32_t last = word[i - 1];
        __m128i helped = _mm_aeskeygenassist_si128(_mm_set1_epi32((int)last), 0);
        if (i % four == 0) {
            last = (uint32_t)_mm_extract_epi32(helped, 1) ^ (uint32_t)constant;
            constant = constant << 1 ^ (constant & 0x80 ? 0x11B : 0);
        } else if (four > 6 && i % four == 4) {
            last = (uint32_t)_mm_extract_epi32(helped, 0);
        }
        word[i] = word[i - four] ^ last;
    }
    for (int round = 0; round <= keys->rounds; round++) {
        __m128i plain = _mm_loadu_si128((const __m128i *)(word + 4 * round));
        int back = keys->rounds - round;
        __m128i inverse = round && back ? _mm_aesimc_si128(plain) : plain;
        for (int lane = 0; lane < LANES_MAX; lane++) {
            memcpy(keys->encrypt[round] + 16 * lane, &plain, 16);
            memcpy(keys->decrypt[back] + 16 * lane, &inverse, 16);
        }
    }
    explicit_bzero(word, sizeof word);
}

#define LANES 1
#define WIDE __m128i
#define TARGET __attribute__((target("aes,sse4.1")))
#define DECRYPT _mm_aesdec_si128
#define LAST _mm_aesdeclast_si128
#define ENCRYPT _mm_aesenc_si128
#define FINAL _mm_aesenclast_si128
#include "_xts_lanes.h"

#define LANES 2
#define WIDE __m256i
#define TARGET __attribute__((target("aes,avx2,vaes")))
#define DECRYPT _mm256_aesdec_epi128
#define LAST _mm256_aesdeclast_epi128
#define ENCRYPT _mm256_aesenc_epi128
#define FINAL _mm256_aesenclast_epi128
#include "_xts_lanes.h"

#define LANES 4
#define WIDE __m512i
#define TARGET __attribute__((target("aes,avx512f,avx512bw,avx512dq,vaes")))
#define DECRYPT _mm512_aesdec_epi128
#define LAST _mm512_aesdeclast_epi128
#define ENCRYPT _mm512_aesenc_epi128
#define FINAL _mm512_aesenclast_epi128
#include "_xts_lanes.h"

int xts_lanes = LANES_MAX;

int xts_wide(const unsigned char *key, size_t half, unsigned char *vectors, size_t count, size_t sector,
             unsigned char *data) {
    int lanes = xts_lanes;
    __builtin_cpu_init();
    if (lanes >= 4 && !(__builtin_cpu_supports("vaes") && __builtin_cpu_supports("avx512f")
                        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")))
        lanes = 2;
    if (lanes == 2 && !(__builtin_cpu_supports("vaes") && __builtin_cpu_supports("avx2")))
        lanes = 1;
    if (lanes < 1 || !__builtin_cpu_supports("aes") || !__builtin_cpu_supports("sse4.1"))
        return 0;
    while (lanes > 1 && sector % (16 * REGISTERS * (size_t)lanes))
        lanes /= 2;
    if (sector % (16 * REGISTERS) || (half != 16 && half != 32))
        return 0;
    struct schedule keys;
    expand(&keys, key + half, half);
    (lanes == 4 ? tweaked4 : lanes == 2 ? tweaked2 : tweaked1)(&keys, vectors, count);
    expand(&keys, key, half);
    (lanes == 4 ? sectors4 : lanes == 2 ? sectors2 : sectors1)(&keys, vectors, count, sector, data);
    explicit_bzero(&keys, sizeof keys);
    return 1;
}

#else

int xts_lanes = 0;

int xts_wide(const unsigned char *key, size_t half, unsigned char *vectors, size_t count, size_t sector,
             unsigned char *data) {
    (void)key, (void)half, (void)vectors, (void)count, (void)sector, (void)data;
    return 0;
}

#endif
