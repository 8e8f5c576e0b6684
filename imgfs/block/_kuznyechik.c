/* Kuznyechik, block by block, without the interpreter's lock: libgcrypt has none.
 *
 * Source: RFC 7801 (GOST R 34.12-2015). Its linear transformation L is sixteen steps R, tabled here for each byte
 * of a block; sections 4.1 to 4.5. The tables are looked up by bytes that depend on the key: what reads evidence
 * does not hide from whoever shares its processor.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

static const unsigned char pi[256] = {
    252, 238, 221, 17, 207, 110, 49, 22, 251, 196, 250, 218, 35, 197, 4, 77, 233, 119, 240, 219, 147, 46,
    153, 186, 23, 54, 241, 187, 20, 205, 95, 193, 249, 24, 101, 90, 226, 92, 239, 33, 129, 28, 60, 66,
    139, 1, 142, 79, 5, 132, 2, 174, 227, 106, 143, 160, 6, 11, 237, 152, 127, 212, 211, 31, 235, 52,
    44, 81, 234, 200, 72, 171, 242, 42, 104, 162, 253, 58, 206, 204, 181, 112, 14, 86, 8, 12, 118, 18,
    191, 114, 19, 71, 156, 183, 93, 135, 21, 161, 150, 41, 16, 123, 154, 199, 243, 145, 120, 111, 157, 158,
    178, 177, 50, 117, 25, 61, 255, 53, 138, 126, 109, 84, 198, 128, 195, 189, 13, 87, 223, 245, 36, 169,
    62, 168, 67, 201, 215, 121, 214, 246, 124, 34, 185, 3, 224, 15, 236, 222, 122, 148, 176, 188, 220, 232,
    40, 80, 78, 51, 10, 74, 167, 151, 96, 115, 30, 0, 98, 68, 26, 184, 56, 130, 100, 159, 38, 65,
    173, 69, 70, 146, 39, 94, 85, 47, 140, 163, 165, 125, 105, 213, 149, 59, 7, 88, 179, 64, 134, 172,
    29, 247, 48, 55, 107, 228, 136, 217, 231, 137, 225, 27, 131, 73, 76, 63, 248, 254, 141, 83, 170, 144,
    202, 216, 133, 97, 32, 113, 103, 164, 45, 43, 9, 91, 203, 155, 37, 208, 190, 229, 108, 82, 89, 166,
    116, 210, 230, 244, 180, 192, 209, 102, 175, 194, 57, 75, 99, 182,
};
static const unsigned char factors[16] = {148, 32, 133, 16, 194, 192, 1, 251, 1, 192, 194, 16, 133, 32, 148, 1};

typedef union {
    unsigned char byte[16];
    uint64_t word[2];
} block;

static unsigned char inverse[256];
static block forward[16][256], back[16][256]; /* L(S(byte)) and the inverse of L, of a byte in each place */

static unsigned char times(unsigned char a, unsigned char b) { /* modulo x^8 + x^7 + x^6 + x + 1 */
    unsigned char product = 0;
    for (; b; b >>= 1, a = (unsigned char)(a << 1 ^ (a & 0x80 ? 0xc3 : 0)))
        if (b & 1)
            product ^= a;
    return product;
}

static void linear(block *state) { /* the first byte is a_15 */
    for (int step = 0; step < 16; step++) {
        unsigned char sum = 0;
        for (int i = 0; i < 16; i++)
            sum ^= times(state->byte[i], factors[i]);
        memmove(state->byte + 1, state->byte, 15);
        state->byte[0] = sum;
    }
}

static void unlinear(block *state) {
    for (int step = 0; step < 16; step++) {
        unsigned char first = state->byte[0], sum = 0;
        memmove(state->byte, state->byte + 1, 15);
        state->byte[15] = first;
        for (int i = 0; i < 16; i++)
            sum ^= times(state->byte[i], factors[i]);
        state->byte[15] = sum;
    }
}

static void fill(void) {
    for (int value = 0; value < 256; value++)
        inverse[pi[value]] = (unsigned char)value;
    for (int place = 0; place < 16; place++)
        for (int value = 0; value < 256; value++) {
            memset(&forward[place][value], 0, 16);
            memset(&back[place][value], 0, 16);
            forward[place][value].byte[place] = pi[value];
            back[place][value].byte[place] = (unsigned char)value;
            linear(&forward[place][value]);
            unlinear(&back[place][value]);
        }
}

static block looked(const block table[16][256], const block *state) {
    block found = {{0}};
    for (int place = 0; place < 16; place++) {
        const block *row = &table[place][state->byte[place]];
        found.word[0] ^= row->word[0];
        found.word[1] ^= row->word[1];
    }
    return found;
}

static void add(block *state, const block *key) {
    state->word[0] ^= key->word[0];
    state->word[1] ^= key->word[1];
}

static void expand(const unsigned char *key, block *keys) {
    memcpy(keys, key, 32);
    block one = keys[0], two = keys[1];
    for (int i = 1; i <= 32; i++) {
        block constant = {{0}}, mixed = one;
        constant.byte[15] = (unsigned char)i;
        linear(&constant);
        add(&mixed, &constant);
        mixed = looked(forward, &mixed);
        add(&mixed, &two);
        two = one;
        one = mixed;
        if (i % 8 == 0) {
            keys[i / 4] = one;
            keys[i / 4 + 1] = two;
        }
    }
}

static void encrypt(const block *keys, block *state) {
    for (int round = 0; round < 9; round++) {
        add(state, &keys[round]);
        *state = looked(forward, state);
    }
    add(state, &keys[9]);
}

static void decrypt(const block *keys, block *state) {
    for (int round = 9; round; round--) {
        add(state, &keys[round]);
        *state = looked(back, state);
        for (int i = 0; i < 16; i++)
            state->byte[i] = inverse[state->byte[i]];
    }
    add(state, &keys[0]);
}

PyDoc_STRVAR(ecb_doc, "ecb(key, data, encrypt)\n--\n\n"
    "Decrypt or encrypt blocks of 16 bytes in place, one by one.\n\n"
    "Raises:\n    ValueError: no key of 32 bytes, or no whole blocks.");

static PyObject *ecb(PyObject *self, PyObject *args) {
    Py_buffer key, data;
    int forth;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*w*p", &key, &data, &forth))
        return NULL;
    int good = key.len == 32 && data.len % 16 == 0;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        block keys[10], state;
        expand(key.buf, keys);
        for (unsigned char *at = data.buf, *end = at + data.len; at < end; at += 16) {
            memcpy(&state, at, 16);
            (forth ? encrypt : decrypt)(keys, &state);
            memcpy(at, &state, 16);
        }
        explicit_bzero(keys, sizeof keys);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&key);
    PyBuffer_Release(&data);
    if (!good) {
        PyErr_SetString(PyExc_ValueError, "a key of 32 bytes, and whole blocks");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"ecb", ecb, METH_VARARGS, ecb_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_kuznyechik", "Kuznyechik, block by block.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kuznyechik(void) {
    fill();
    return PyModuleDef_Init(&module);
}
