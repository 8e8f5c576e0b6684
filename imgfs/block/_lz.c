/* LZX and XPRESS Huffman, one chunk at a time, without the interpreter's lock.
 *
 * What is not as it should be is None: imgfs/backends/_lzx.py and _xpress.py, which do the same, say why.
 * Sources as there.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_MAX 65536 /* bytes */
#define LZX_MAX 32768
#define SLOTS 30 /* of offsets up to 32 KiB */
#define MAIN (256 + 8 * SLOTS)
#define LENGTHS 249
#define SYMBOLS 512

/* entries[n]: symbol << 5 | length of the code that the ``bits`` bits of n begin with */
struct code {
    unsigned bits;
    uint16_t entries[1 << 16];
};

/* Make a code of lengths of at most 16; 0: they leave a sequence of bits out, or name it twice. */
static int make(struct code *code, const uint8_t *lengths, unsigned symbols) {
    size_t at = 0;
    code->bits = 0;
    for (unsigned symbol = 0; symbol < symbols; symbol++)
        if (lengths[symbol] > code->bits)
            code->bits = lengths[symbol];
    for (unsigned length = 1; length <= code->bits; length++) {
        size_t times = (size_t)1 << (code->bits - length);
        for (unsigned symbol = 0; symbol < symbols; symbol++) {
            if (lengths[symbol] != length)
                continue;
            if (at + times > (size_t)1 << code->bits)
                return 0;
            for (size_t stop = at + times; at < stop; at++)
                code->entries[at] = (uint16_t)(symbol << 5 | length);
        }
    }
    return !code->bits || at == (size_t)1 << code->bits;
}

/* Repeat what lies ``distance`` bytes before ``have``; 0: it begins before the chunk, or ends behind ``stop``. */
static int copy(uint8_t *out, size_t have, size_t stop, size_t distance, size_t length) {
    if (!distance || distance > have || length > stop - have)
        return 0;
    if (distance >= length)
        memcpy(out + have, out + have - distance, length);
    else
        for (size_t n = 0; n < length; n++)
            out[have + n] = out[have + n - distance];
    return 1;
}

/* Return the two bytes at a place, zeros behind the end. */
static uint32_t pair(const uint8_t *data, size_t size, size_t at) {
    return (at < size ? data[at] : 0u) | (at + 1 < size ? (uint32_t)data[at + 1] << 8 : 0u);
}

struct lzx {
    const uint8_t *data;
    size_t size, at, end; /* bytes; bits taken, and bits there are */
    int bad;
    uint8_t main_lengths[MAIN], long_lengths[LENGTHS];
    struct code main, longer, aligned, changes;
};

/* Return the next 0 to 17 bits without taking them. */
static uint32_t look(const struct lzx *lzx, unsigned bits) {
    size_t byte = lzx->at / 16 * 2;
    uint64_t words = (uint64_t)pair(lzx->data, lzx->size, byte) << 32 |
                     (uint64_t)pair(lzx->data, lzx->size, byte + 2) << 16 | pair(lzx->data, lzx->size, byte + 4);
    return (uint32_t)(words >> (48 - lzx->at % 16 - bits)) & ((1u << bits) - 1);
}

static uint32_t take(struct lzx *lzx, unsigned bits) {
    if (lzx->bad || lzx->at + bits > lzx->end) {
        lzx->bad = 1;
        return 0;
    }
    uint32_t found = look(lzx, bits);
    lzx->at += bits;
    return found;
}

static unsigned symbol_of(struct lzx *lzx, const struct code *code) {
    if (lzx->bad || !code->bits || lzx->at > lzx->end) {
        lzx->bad = 1;
        return 0;
    }
    unsigned entry = code->entries[look(lzx, code->bits)];
    lzx->at += entry & 31;
    return entry >> 5;
}

/* Change the lengths [at, stop) by what is stored. */
static void changed(struct lzx *lzx, uint8_t *lengths, unsigned at, unsigned stop) {
    uint8_t own[20];
    for (unsigned n = 0; n < 20; n++)
        own[n] = (uint8_t)take(lzx, 4);
    if (lzx->bad || !make(&lzx->changes, own, 20)) {
        lzx->bad = 1;
        return;
    }
    while (at < stop) {
        unsigned symbol = symbol_of(lzx, &lzx->changes), times = 1, value = 0;
        if (symbol == 17) {
            times = 4 + take(lzx, 4);
        } else if (symbol == 18) {
            times = 20 + take(lzx, 5);
        } else {
            if (symbol == 19) {
                times = 4 + take(lzx, 1);
                symbol = symbol_of(lzx, &lzx->changes);
            }
            if (symbol > 16)
                lzx->bad = 1;
            value = (lengths[at] + 17 - (symbol > 16 ? 0 : symbol)) % 17;
        }
        if (lzx->bad || times > stop - at) {
            lzx->bad = 1;
            return;
        }
        memset(lengths + at, (int)value, times);
        at += times;
    }
}

static int lzx_chunk(struct lzx *lzx, uint8_t *out, size_t size) {
    static const unsigned extra[SLOTS] = {0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6,
                                          7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
    uint32_t base[SLOTS], recent[3] = {1, 1, 1};
    size_t have = 0;
    base[0] = 0;
    for (unsigned slot = 1; slot < SLOTS; slot++)
        base[slot] = base[slot - 1] + (1u << extra[slot - 1]);
    while (have < size) {
        unsigned kind = take(lzx, 3);
        size_t block = take(lzx, 1) ? LZX_MAX : take(lzx, 16);
        if (lzx->bad || !block || block > size - have)
            return 0;
        size_t stop = have + block;
        if (kind == 3) {
            size_t at = (lzx->at / 16 + 1) * 2;
            if (at + 12 + block > lzx->size)
                return 0;
            for (unsigned n = 0; n < 3; n++)
                recent[n] = pair(lzx->data, lzx->size, at + 4 * n) | pair(lzx->data, lzx->size, at + 4 * n + 2) << 16;
            memcpy(out + have, lzx->data + at + 12, block);
            lzx->at = 8 * (at + 12 + block + block % 2);
            have = stop;
            continue;
        }
        if (kind != 1 && kind != 2)
            return 0;
        if (kind == 2) {
            uint8_t own[8];
            for (unsigned n = 0; n < 8; n++)
                own[n] = (uint8_t)take(lzx, 3);
            if (lzx->bad || !make(&lzx->aligned, own, 8))
                return 0;
        }
        changed(lzx, lzx->main_lengths, 0, 256);
        if (!lzx->bad)
            changed(lzx, lzx->main_lengths, 256, MAIN);
        if (lzx->bad || !make(&lzx->main, lzx->main_lengths, MAIN))
            return 0;
        changed(lzx, lzx->long_lengths, 0, LENGTHS);
        if (lzx->bad || !make(&lzx->longer, lzx->long_lengths, LENGTHS))
            return 0;
        while (have < stop) {
            unsigned symbol = symbol_of(lzx, &lzx->main);
            if (lzx->bad)
                return 0;
            if (symbol < 256) {
                out[have++] = (uint8_t)symbol;
                continue;
            }
            size_t length = symbol & 7;
            unsigned slot = (symbol - 256) >> 3;
            length += length < 7 ? 2 : 2 + symbol_of(lzx, &lzx->longer);
            if (slot > 2) {
                uint32_t place = base[slot] - 2;
                if (kind == 1 || extra[slot] < 3) {
                    place += take(lzx, extra[slot]);
                } else {
                    place += take(lzx, extra[slot] - 3) << 3;
                    place += symbol_of(lzx, &lzx->aligned);
                }
                recent[2] = recent[1];
                recent[1] = recent[0];
                recent[0] = place;
            } else if (slot) {
                uint32_t place = recent[slot];
                recent[slot] = recent[0];
                recent[0] = place;
            }
            if (lzx->bad || !copy(out, have, stop, recent[0], length))
                return 0;
            have += length;
        }
        if (lzx->at > lzx->end)
            return 0;
    }
    for (size_t at = 0; at + 10 < size; at++) {
        if (out[at] != 0xE8)
            continue;
        int32_t target = (int32_t)(pair(out, size, at + 1) | pair(out, size, at + 3) << 16);
        if (target >= -(int32_t)at && target < 12000000) {
            uint32_t place = (uint32_t)(target >= 0 ? target - (int32_t)at : target + 12000000);
            for (unsigned n = 0; n < 4; n++)
                out[at + 1 + n] = (uint8_t)(place >> 8 * n);
        }
        at += 4;
    }
    return 1;
}

/* Refill 16 bits where fewer than 16 are left beyond those that must be there. */
#define USED(count)                                                                                          \
    do {                                                                                                     \
        word = (count) ? word << (count) : word;                                                             \
        spare -= (int)(count);                                                                               \
        if (spare < 0) {                                                                                     \
            word |= pair(data, size, at) << -spare;                                                          \
            spare += 16;                                                                                     \
            at += 2;                                                                                         \
        }                                                                                                    \
    } while (0)

static int xpress_chunk(struct code *code, const uint8_t *data, size_t size, uint8_t *out, size_t wanted) {
    uint8_t lengths[SYMBOLS];
    if (size < 260)
        return 0;
    for (unsigned n = 0; n < SYMBOLS; n++)
        lengths[n] = data[n / 2] >> n % 2 * 4 & 15;
    if (!make(code, lengths, SYMBOLS) || !code->bits)
        return 0;
    size_t at = 260, have = 0;
    uint32_t word = pair(data, size, 256) << 16 | pair(data, size, 258);
    int spare = 16;
    while (have < wanted) {
        unsigned entry = code->entries[word >> (32 - code->bits)], symbol = entry >> 5;
        USED(entry & 31);
        if (symbol < 256) {
            out[have++] = (uint8_t)symbol;
        } else {
            size_t length = symbol & 15;
            unsigned places = (symbol - 256) >> 4;
            if (length == 15) {
                if (at + 1 > size)
                    return 0;
                length = data[at++];
                if (length < 255) {
                    length += 15;
                } else {
                    length = pair(data, size, at);
                    at += 2;
                    if (!length) {
                        length = pair(data, size, at) | (size_t)pair(data, size, at + 2) << 16;
                        at += 4;
                    }
                    if (at > size || length < 15 || length > wanted)
                        return 0;
                }
            }
            size_t distance = (size_t)1 << places | (places ? word >> (32 - places) : 0);
            USED(places);
            if (!copy(out, have, wanted, distance, length + 3))
                return 0;
            have += length + 3;
        }
        if (at > size && (at - size) * 8 > (size_t)spare + 16)
            return 0;
    }
    return 1;
}

static PyObject *decoded(PyObject *args, int is_lzx) {
    Py_buffer data;
    Py_ssize_t size;
    PyObject *result = NULL;
    int good = 0;
    if (!PyArg_ParseTuple(args, "y*n", &data, &size))
        return NULL;
    struct lzx *state = NULL;
    if (size >= 0 && size <= (is_lzx ? LZX_MAX : CHUNK_MAX) && (state = calloc(1, sizeof *state)) &&
        (result = PyBytes_FromStringAndSize(NULL, size))) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        state->data = data.buf;
        state->size = (size_t)data.len;
        state->end = 8 * (size_t)data.len;
        good = is_lzx ? lzx_chunk(state, out, (size_t)size)
                      : xpress_chunk(&state->main, data.buf, (size_t)data.len, out, (size_t)size);
        Py_END_ALLOW_THREADS
    }
    free(state);
    PyBuffer_Release(&data);
    if (good)
        return result;
    Py_XDECREF(result);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(lzx_doc, "lzx(data, size)\n--\n\nReturn the ``size`` bytes of a chunk of LZX, None: it is damaged.\n");

static PyObject *lzx(PyObject *self, PyObject *args) {
    (void)self;
    return decoded(args, 1);
}

PyDoc_STRVAR(xpress_doc,
    "xpress(data, size)\n--\n\nReturn the ``size`` bytes of a chunk of XPRESS Huffman, None: it is damaged.\n");

static PyObject *xpress(PyObject *self, PyObject *args) {
    (void)self;
    return decoded(args, 0);
}

static PyMethodDef methods[] = {
    {"lzx", lzx, METH_VARARGS, lzx_doc},
    {"xpress", xpress, METH_VARARGS, xpress_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_lz", "Chunks of LZX and XPRESS Huffman.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__lz(void) {
    return PyModuleDef_Init(&module);
}
