/* Decompress LZO1X, every read and every copy bounded: no input makes it read or write outside what it was given.
 *
 * Copies of 16 bytes where fewer are wanted are made only where both sides have room for them; what is written
 * too much lies in the room that was given, behind what is held, and the next instruction writes over it.
 *
 * Written from the description of the stream in the Linux kernel's Documentation/staging/lzo.rst, as lzo.py
 * beside it was, which decodes the same and is what is used without a compiler.
 */

#ifndef IMGFS_LZO1X_H
#define IMGFS_LZO1X_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LZO_SHORT = 1, LZO_FULL, LZO_BEFORE, LZO_ENDLESS };
enum { LZO_WIDE = 16, LZO_WORD = 8 };

typedef struct {
    const unsigned char *in;
    size_t at, stop; /* at <= stop */
    unsigned char *out;
    size_t held, most; /* held <= most */
} lzo_stream;

/* Continue a length whose first bits are all zero. Returns 0 at the end of what is stored. */
static inline int lzo_lengthened(lzo_stream *s, size_t base, size_t *length) {
    size_t sum = base;
    for (;;) {
        if (s->at >= s->stop)
            return 0;
        unsigned byte = s->in[s->at++];
        if (byte) {
            *length = sum + byte;
            return 1;
        }
        sum += 255; /* at most 255 for each stored byte: no overflow */
    }
}

static inline int lzo_literals(lzo_stream *s, size_t count) {
    size_t left = s->stop - s->at, room = s->most - s->held;
    if (count > left)
        return LZO_SHORT;
    if (count > room)
        return LZO_FULL;
    if (count <= LZO_WIDE && left >= LZO_WIDE && room >= LZO_WIDE)
        memcpy(s->out + s->held, s->in + s->at, LZO_WIDE);
    else
        memcpy(s->out + s->held, s->in + s->at, count);
    s->at += count;
    s->held += count;
    return 0;
}

static inline int lzo_match(lzo_stream *s, size_t distance, size_t length) {
    size_t room = s->most - s->held;
    if (distance > s->held)
        return LZO_BEFORE;
    if (length > room)
        return LZO_FULL;
    unsigned char *to = s->out + s->held, *end = to + length;
    const unsigned char *from = to - distance;
    s->held += length;
    if (distance >= LZO_WIDE && room - length >= LZO_WIDE)
        for (; to < end; to += LZO_WIDE, from += LZO_WIDE)
            memcpy(to, from, LZO_WIDE);
    else if (distance >= LZO_WORD && room - length >= LZO_WORD)
        for (; to < end; to += LZO_WORD, from += LZO_WORD)
            memcpy(to, from, LZO_WORD);
    else if (distance >= length)
        memcpy(to, from, length);
    else if (distance == 1)
        memset(to, *from, length);
    else
        while (to < end) /* a copy that reads what it has just written repeats it */
            *to++ = *from++;
    return 0;
}

/* Decode `stored` bytes of `in` to at most `most` of `out`. Returns 0 and how many there are in `held`, or why not. */
static int lzo1x(const unsigned char *in, size_t stored, unsigned char *out, size_t most, size_t *held) {
    lzo_stream stream = {in, 0, stored, out, 0, most}, *s = &stream;
    int why;
    unsigned state = 0; /* literals behind the last instruction, 4: four or more */
    if (s->stop && s->in[0] > 17) {
        size_t count = s->in[s->at++] - 17u;
        if ((why = lzo_literals(s, count)))
            return why;
        state = count < 4 ? (unsigned)count : 4;
    }
    for (;;) {
        if (s->at >= s->stop)
            return LZO_ENDLESS;
        unsigned code = s->in[s->at++];
        size_t length, distance;
        unsigned behind;
        if (code < 16 && !state) {
            length = code;
            if (!length && !lzo_lengthened(s, 15, &length))
                return LZO_SHORT;
            if ((why = lzo_literals(s, length + 3)))
                return why;
            state = 4;
            continue;
        }
        if (code < 16 || code >= 64) {
            if (s->at >= s->stop)
                return LZO_SHORT;
            size_t high = s->in[s->at++];
            behind = code & 3;
            if (code < 16) {
                distance = (high << 2) + (code >> 2) + (state == 4 ? 2049 : 1);
                length = state == 4 ? 3 : 2;
            } else {
                distance = (high << 3) + (code >> 2 & 7) + 1;
                length = code < 128 ? 3 + (code >> 5 & 1) : 5 + (code >> 5 & 3);
            }
        } else {
            unsigned mask = code < 32 ? 7 : 31;
            length = code & mask;
            if (!length && !lzo_lengthened(s, mask, &length))
                return LZO_SHORT;
            length += 2;
            if (s->stop - s->at < 2)
                return LZO_SHORT;
            unsigned word = s->in[s->at] | (unsigned)s->in[s->at + 1] << 8;
            s->at += 2;
            behind = word & 3;
            if (code < 32) {
                distance = 16384 + ((size_t)(code >> 3 & 1) << 14) + (word >> 2);
                if (distance == 16384) {
                    *held = s->held;
                    return 0;
                }
            } else
                distance = (size_t)(word >> 2) + 1;
        }
        if ((why = lzo_match(s, distance, length)))
            return why;
        if (behind && (why = lzo_literals(s, behind)))
            return why;
        state = behind;
    }
}

#endif
