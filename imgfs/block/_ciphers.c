/* Sectors of ciphertext, many in one call and without the interpreter's lock.
 *
 * The cryptography itself is OpenSSL's. What is here is the loop over sectors, which in Python costs ten times
 * what the decryption does: each sector of 512 bytes has an initial vector of its own. XTS goes by _xts.c where the
 * processor has what that needs.
 *
 * Sources: IEEE Std 1619-2007 (XTS), section 5; OpenSSL EVP_EncryptInit(3). The tweak of block j of a sector is
 * that of the sector times x^j in GF(2^128) of x^128 + x^7 + x^2 + x + 1, little-endian. Niels Ferguson, AES-CBC +
 * Elephant diffuser, 2006.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

#include "_xts.h"

static int sectors_of(const Py_buffer *data, Py_ssize_t sector, Py_ssize_t vectors, Py_ssize_t *count) {
    if (sector < 16 || sector % 16 || sector > (1 << 20) || data->len % sector) {
        PyErr_SetString(PyExc_ValueError, "sectors are multiples of 16 bytes, and whole");
        return -1;
    }
    *count = data->len / sector;
    if (vectors != 16 * *count) {
        PyErr_SetString(PyExc_ValueError, "a vector of 16 bytes for every sector");
        return -1;
    }
    return 0;
}

#define TILE 16384 /* bytes at a time: data and tweaks stay in the nearest cache */

static const EVP_CIPHER *ecb(Py_ssize_t key) {
    return key == 16 ? EVP_aes_128_ecb() : key == 24 ? EVP_aes_192_ecb() : key == 32 ? EVP_aes_256_ecb() : NULL;
}

static const EVP_CIPHER *cbc(Py_ssize_t key) {
    return key == 16 ? EVP_aes_128_cbc() : key == 24 ? EVP_aes_192_cbc() : key == 32 ? EVP_aes_256_cbc() : NULL;
}

static uint64_t little(const unsigned char *at) {
    uint64_t word = 0;
    for (int byte = 7; byte >= 0; byte--)
        word = word << 8 | at[byte];
    return word;
}

/* Where the tweaks have got to: sector ``next`` of ``vectors`` comes when ``left`` bytes of this one are done. */
struct tweaks {
    const unsigned char *next;
    Py_ssize_t sector, left;
    uint64_t low, high;
};

#define LANES 8 /* tweaks computed side by side: one from the other, the processor would wait for each */

typedef uint64_t pair __attribute__((vector_size(16)));

/* Multiply LANES tweaks, low and high words, by x^LANES. */
static void advance(pair *tweak) {
    const pair low = {~(uint64_t)0, 0}, swap = {1, 0};
    for (int lane = 0; lane < LANES; lane++) {
        pair out = __builtin_shuffle(tweak[lane] >> (64 - LANES), swap);
        pair folded = out & low;
        tweak[lane] = tweak[lane] << LANES ^ out ^ folded << 1 ^ folded << 2 ^ folded << 7;
    }
}

static void step(struct tweaks *state, uint64_t *to) {
    to[0] = state->low;
    to[1] = state->high;
    uint64_t carry = (uint64_t)((int64_t)state->high >> 63) & 0x87;
    state->high = state->high << 1 | state->low >> 63;
    state->low = state->low << 1 ^ carry;
    state->left -= 16;
}

static void spread(struct tweaks *state, uint64_t *to, Py_ssize_t bytes) {
    const uint64_t *begin = to;
    for (uint64_t *end = to + bytes / 8; to < end;) {
        if (!state->left) {
            state->low = little(state->next);
            state->high = little(state->next + 8);
            state->next += 16;
            state->left = state->sector;
        }
        Py_ssize_t run = state->left < 8 * (end - to) ? state->left : 8 * (end - to);
        if (run < 2 * 16 * LANES) {
            step(state, to);
            to += 2;
            continue;
        }
        pair tweak[LANES];
        for (int lane = 0; lane < LANES; lane++, to += 2) {
            step(state, to);
            tweak[lane] = (pair){to[0], to[1]};
        }
        for (run -= 16 * LANES; run >= 16 * LANES; run -= 16 * LANES, to += 2 * LANES, state->left -= 16 * LANES) {
            advance(tweak);
            memcpy(to, tweak, sizeof tweak);
        }
        advance(tweak);
        state->low = tweak[0][0];
        state->high = tweak[0][1];
    }
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (uint64_t *word = (uint64_t *)begin; word < to; word++)
        *word = __builtin_bswap64(*word);
#else
    (void)begin;
#endif
}

static void add(unsigned char *data, const uint64_t *mask, Py_ssize_t bytes) {
    const unsigned char *other = (const unsigned char *)mask;
    for (Py_ssize_t i = 0; i < bytes; i++)
        data[i] ^= other[i];
}

static int decrypt_xts(const unsigned char *key, Py_ssize_t half, unsigned char *vectors, Py_ssize_t count,
                       Py_ssize_t sector, unsigned char *data) {
    uint64_t mask[TILE / 8];
    int length;
    Py_ssize_t size = count * sector;
    if (xts_wide(key, (size_t)half, vectors, (size_t)count, (size_t)sector, data))
        return 1;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int good = context && EVP_EncryptInit_ex(context, ecb(half), NULL, key + half, NULL)
        && EVP_CIPHER_CTX_set_padding(context, 0)
        && EVP_EncryptUpdate(context, vectors, &length, vectors, (int)(16 * count)) && length == 16 * count
        && EVP_DecryptInit_ex(context, ecb(half), NULL, key, NULL) && EVP_CIPHER_CTX_set_padding(context, 0);
    struct tweaks state = {vectors, sector, 0, 0, 0};
    for (Py_ssize_t bytes; good && size; size -= bytes, data += bytes) {
        bytes = size < TILE ? size : TILE;
        spread(&state, mask, bytes);
        add(data, mask, bytes);
        good = EVP_DecryptUpdate(context, data, &length, data, (int)bytes) && length == bytes;
        add(data, mask, bytes);
    }
    EVP_CIPHER_CTX_free(context);
    return good;
}

static int decrypt_cbc(const unsigned char *key, Py_ssize_t size, unsigned char *vectors, Py_ssize_t count,
                       Py_ssize_t sector, unsigned char *data) {
    int length;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int good = context && EVP_DecryptInit_ex(context, cbc(size), NULL, key, vectors)
        && EVP_CIPHER_CTX_set_padding(context, 0);
    for (; good && count; count--, data += sector, vectors += 16)
        good = EVP_DecryptInit_ex(context, NULL, NULL, NULL, vectors)
            && EVP_DecryptUpdate(context, data, &length, data, (int)sector) && length == sector;
    EVP_CIPHER_CTX_free(context);
    return good;
}

static PyObject *decrypt(PyObject *args, int xts) {
    Py_buffer key, vectors, data;
    Py_ssize_t sector, count;
    int good = 0;
    if (!PyArg_ParseTuple(args, "y*w*nw*", &key, &vectors, &sector, &data))
        return NULL;
    if (!sectors_of(&data, sector, vectors.len, &count)) {
        if (data.len > 1 << 30 || !(xts ? key.len % 2 == 0 && ecb(key.len / 2) && key.len != 48 : cbc(key.len) != NULL)) {
            PyErr_Format(PyExc_ValueError, "no AES for a key of %zd bytes", key.len);
        } else {
            Py_BEGIN_ALLOW_THREADS
            good = xts ? decrypt_xts(key.buf, key.len / 2, vectors.buf, count, sector, data.buf)
                       : decrypt_cbc(key.buf, key.len, vectors.buf, count, sector, data.buf);
            Py_END_ALLOW_THREADS
            if (!good)
                PyErr_SetString(PyExc_ValueError, "OpenSSL refuses it");
        }
    }
    PyBuffer_Release(&key);
    PyBuffer_Release(&vectors);
    PyBuffer_Release(&data);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(aes_xts_doc, "aes_xts(key, vectors, sector, data)\n--\n\n"
    "Decrypt sectors in place; ``vectors``, 16 bytes for each, are used up.\n\n"
    "Raises:\n    ValueError: lengths do not fit, or OpenSSL refuses the key.");

static PyObject *aes_xts(PyObject *self, PyObject *args) {
    (void)self;
    return decrypt(args, 1);
}

PyDoc_STRVAR(plain_doc, "plain(first, step, count)\n--\n\n"
    "Return the vectors of ``count`` sectors: their numbers in 8 bytes, little-endian, and 8 of zero.\n\n"
    "Raises:\n    ValueError: more than 2^26 of them.");

static PyObject *plain(PyObject *self, PyObject *args) {
    unsigned long long first, step;
    Py_ssize_t count;
    (void)self;
    if (!PyArg_ParseTuple(args, "KKn", &first, &step, &count))
        return NULL;
    if (count < 0 || count > 1 << 26) {
        PyErr_SetString(PyExc_ValueError, "that many sectors are no one's");
        return NULL;
    }
    PyObject *made = PyByteArray_FromStringAndSize(NULL, 16 * count);
    if (!made)
        return NULL;
    unsigned char *to = (unsigned char *)PyByteArray_AsString(made);
    for (; count; count--, first += step, to += 16) {
        for (int byte = 0; byte < 8; byte++)
            to[byte] = (unsigned char)(first >> 8 * byte);
        memset(to + 8, 0, 8);
    }
    return made;
}

PyDoc_STRVAR(widest_doc, "widest(lanes)\n--\n\n"
    "Let XTS use registers of at most ``lanes`` blocks, 0: the library only. For tests: the widest is right.");

static PyObject *widest(PyObject *self, PyObject *args) {
    (void)self;
    if (!PyArg_ParseTuple(args, "i", &xts_lanes))
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(aes_cbc_doc, "aes_cbc(key, vectors, sector, data)\n--\n\n"
    "Decrypt sectors in place, each a chain of its own that starts from its 16 bytes of ``vectors``.\n\n"
    "Raises:\n    ValueError: lengths do not fit, or OpenSSL refuses the key.");

static PyObject *aes_cbc(PyObject *self, PyObject *args) {
    (void)self;
    return decrypt(args, 0);
}

PyDoc_STRVAR(aes_ecb_doc, "aes_ecb(key, data, encrypt)\n--\n\n"
    "Decrypt or encrypt blocks of 16 bytes in place, one by one.\n\n"
    "Raises:\n    ValueError: lengths do not fit, or OpenSSL refuses the key.");

static PyObject *aes_ecb(PyObject *self, PyObject *args) {
    Py_buffer key, data;
    int encrypt, good = 0, length = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*w*p", &key, &data, &encrypt))
        return NULL;
    if (ecb(key.len) && data.len % 16 == 0 && data.len <= 1 << 30) {
        Py_BEGIN_ALLOW_THREADS
        EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
        good = context && EVP_CipherInit_ex(context, ecb(key.len), NULL, key.buf, NULL, encrypt)
            && EVP_CIPHER_CTX_set_padding(context, 0)
            && EVP_CipherUpdate(context, data.buf, &length, data.buf, (int)data.len) && length == data.len;
        EVP_CIPHER_CTX_free(context);
        Py_END_ALLOW_THREADS
    }
    if (!good)
        PyErr_Format(PyExc_ValueError, "no AES of %zd bytes for a key of %zd bytes", data.len, key.len);
    PyBuffer_Release(&key);
    PyBuffer_Release(&data);
    if (!good)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(mask_doc, "mask(tweaks, sector, data)\n--\n\n"
    "Add the tweaks of XTS to sectors in place: before and after a cipher that works block by block.\n\n"
    "``tweaks`` holds 16 bytes for each sector: the encrypted one of its first block.\n\n"
    "Raises:\n    ValueError: lengths do not fit.");

static PyObject *mask(PyObject *self, PyObject *args) {
    Py_buffer tweaks, data;
    Py_ssize_t sector, count;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nw*", &tweaks, &sector, &data))
        return NULL;
    int bad = sectors_of(&data, sector, tweaks.len, &count);
    if (!bad) {
        Py_BEGIN_ALLOW_THREADS
        uint64_t words[TILE / 8];
        struct tweaks state = {tweaks.buf, sector, 0, 0, 0};
        unsigned char *at = data.buf;
        Py_ssize_t size = data.len;
        for (Py_ssize_t bytes; size; size -= bytes, at += bytes) {
            bytes = size < TILE ? size : TILE;
            spread(&state, words, bytes);
            add(at, words, bytes);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&tweaks);
    PyBuffer_Release(&data);
    if (bad)
        return NULL;
    Py_RETURN_NONE;
}

/* Niels Ferguson, AES-CBC + Elephant diffuser, 2006, section 4. Each word is added to from two others of the
 * sector, which is a ring; only a few words at its ends reach around. */

#define TURN(word, by) ((word) << (by) | (word) >> (32 - (by)))

static void flip(uint32_t *words, Py_ssize_t count) { /* between the processor's order and little-endian */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (; count; count--, words++)
        *words = __builtin_bswap32(*words);
#else
    (void)words;
    (void)count;
#endif
}

static uint32_t turn(uint32_t word, int by) {
    return by ? word << by | word >> (32 - by) : word;
}

static void around(uint32_t *d, Py_ssize_t n, Py_ssize_t from, Py_ssize_t to, Py_ssize_t near, Py_ssize_t far,
                   const int *turns) {
    for (Py_ssize_t i = from; i < to; i++)
        d[i] += d[(i + near + 2 * n) % n] ^ turn(d[(i + far + 2 * n) % n], turns[i & 3]);
}

static void diffuse(uint32_t *d, Py_ssize_t n, const unsigned char *key) {
    static const int b_turns[4] = {0, 10, 0, 25}, a_turns[4] = {9, 0, 13, 0};
    Py_ssize_t i;
    for (int cycle = 0; cycle < 3; cycle++) {
        for (i = 0; i + 8 < n; i += 4) {
            d[i] += d[i + 2] ^ d[i + 5];
            d[i + 1] += d[i + 3] ^ TURN(d[i + 6], 10);
            d[i + 2] += d[i + 4] ^ d[i + 7];
            d[i + 3] += d[i + 5] ^ TURN(d[i + 8], 25);
        }
        around(d, n, i, n, 2, 5, b_turns);
    }
    for (int cycle = 0; cycle < 5; cycle++) {
        Py_ssize_t begin = n < 8 ? n : 8;
        around(d, n, 0, begin, -2, -5, a_turns);
        for (i = begin; i < n; i += 4) {
            d[i] += d[i - 2] ^ TURN(d[i - 5], 9);
            d[i + 1] += d[i - 1] ^ d[i - 4];
            d[i + 2] += d[i] ^ TURN(d[i - 3], 13);
            d[i + 3] += d[i + 1] ^ d[i - 2];
        }
    }
    uint32_t words[8];
    for (i = 0; i < 8; i++)
        words[i] = (uint32_t)(little(key + 8 * (i / 2)) >> 32 * (i & 1));
    for (i = 0; i < n; i++)
        d[i] ^= words[i & 7];
}

PyDoc_STRVAR(elephant_doc, "elephant(keys, sector, data)\n--\n\n"
    "Undo BitLocker's diffuser in place; ``keys`` holds 32 bytes for each sector.\n\n"
    "Raises:\n    ValueError: lengths do not fit.");

static PyObject *elephant(PyObject *self, PyObject *args) {
    Py_buffer keys, data;
    Py_ssize_t sector, count;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nw*", &keys, &sector, &data))
        return NULL;
    int bad = sectors_of(&data, sector, keys.len / 2, &count) || keys.len % 2 || sector > TILE;
    if (!bad) {
        Py_BEGIN_ALLOW_THREADS
        uint32_t words[TILE / 4];
        unsigned char *at = data.buf;
        const unsigned char *key = keys.buf;
        for (; count; count--, at += sector, key += 32) {
            memcpy(words, at, sector);
            flip(words, sector / 4);
            diffuse(words, sector / 4, key);
            flip(words, sector / 4);
            memcpy(at, words, sector);
        }
        Py_END_ALLOW_THREADS
    } else if (!PyErr_Occurred()) {
        PyErr_SetString(PyExc_ValueError, "a key of 32 bytes for every sector of at most 16 KiB");
    }
    PyBuffer_Release(&keys);
    PyBuffer_Release(&data);
    if (bad)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(chained_doc, "chained(tail, rounds)\n--\n\n"
    "Return the last of ``rounds`` SHA-256, each of the last one (first: zeros), ``tail`` and its number.\n\n"
    "Raises:\n    ValueError: a tail of more than 64 bytes, or OpenSSL refuses it.");

static PyObject *chained(PyObject *self, PyObject *args) {
    Py_buffer tail;
    unsigned long long rounds;
    unsigned char state[32 + 64 + 8] = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "y*K", &tail, &rounds))
        return NULL;
    int good = tail.len <= 64;
    if (good) {
        memcpy(state + 32, tail.buf, tail.len);
        unsigned char *count = state + 32 + tail.len;
        Py_BEGIN_ALLOW_THREADS
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);
        for (uint64_t round = 0; good && round < rounds; round++) {
            for (int byte = 0; byte < 8; byte++)
                count[byte] = (unsigned char)(round >> 8 * byte);
            good = (!round || EVP_DigestInit_ex(context, NULL, NULL))
                && EVP_DigestUpdate(context, state, 40 + tail.len) && EVP_DigestFinal_ex(context, state, NULL);
        }
        EVP_MD_CTX_free(context);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&tail);
    if (!good) {
        PyErr_SetString(PyExc_ValueError, "no SHA-256 of that");
        return NULL;
    }
    return PyBytes_FromStringAndSize((const char *)state, 32);
}

static PyMethodDef methods[] = {
    {"aes_xts", aes_xts, METH_VARARGS, aes_xts_doc},
    {"plain", plain, METH_VARARGS, plain_doc},
    {"widest", widest, METH_VARARGS, widest_doc},
    {"aes_cbc", aes_cbc, METH_VARARGS, aes_cbc_doc},
    {"aes_ecb", aes_ecb, METH_VARARGS, aes_ecb_doc},
    {"mask", mask, METH_VARARGS, mask_doc},
    {"elephant", elephant, METH_VARARGS, elephant_doc},
    {"chained", chained, METH_VARARGS, chained_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_ciphers", "Sectors of ciphertext, many in one call.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__ciphers(void) {
    return PyModuleDef_Init(&module);
}
