/* CRC-32C, XXH64 and Fletcher-64 of many bytes in one call, without the interpreter's lock.
 *
 * Source: RFC 3720, appendix B.4 (CRC-32C, polynomial 0x1EDC6F41, reflected); "xxHash fast digest algorithm",
 * version 0.1.1 (Cyan4973/xxHash, doc/xxhash_spec.md), XXH64. Sectors are independent of each other, so four of
 * them are summed side by side: the processor's instruction takes three cycles and starts one in each.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HARDWARE 1
#include <immintrin.h>
#endif

static uint32_t table[8][256];

static void fill(void) {
    for (uint32_t value = 0; value < 256; value++) {
        uint32_t crc = value;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0x82f63b78) : 0);
        table[0][value] = crc;
    }
    for (int step = 1; step < 8; step++)
        for (int value = 0; value < 256; value++)
            table[step][value] = table[step - 1][value] >> 8 ^ table[0][table[step - 1][value] & 0xff];
}

static uint64_t word(const unsigned char *at) { /* little-endian on any machine */
    uint64_t value = 0;
    for (int byte = 7; byte >= 0; byte--)
        value = value << 8 | at[byte];
    return value;
}

static uint32_t soft(uint32_t crc, const unsigned char *data, size_t length) {
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t mixed = word(data) ^ crc;
        crc = 0;
        for (int byte = 0; byte < 8; byte++)
            crc ^= table[7 - byte][mixed >> 8 * byte & 0xff];
    }
    for (; length; data++, length--)
        crc = crc >> 8 ^ table[0][(crc ^ *data) & 0xff];
    return crc;
}

#ifdef HARDWARE
__attribute__((target("sse4.2"))) static uint32_t hard(uint32_t crc, const unsigned char *data, size_t length) {
    uint64_t wide = crc;
    for (; length >= 8; data += 8, length -= 8) {
        uint64_t value;
        memcpy(&value, data, 8);
        wide = _mm_crc32_u64(wide, value);
    }
    for (; length; data++, length--)
        wide = _mm_crc32_u8((uint32_t)wide, *data);
    return (uint32_t)wide;
}

__attribute__((target("sse4.2"))) static void four(uint32_t *found, const unsigned char *data, size_t sector) {
    uint64_t a = 0xffffffff, b = a, c = a, d = a;
    for (size_t at = 0; at < sector; at += 8) { /* a sector is a multiple of 512 */
        uint64_t v[4];
        memcpy(&v[0], data + at, 8);
        memcpy(&v[1], data + at + sector, 8);
        memcpy(&v[2], data + at + 2 * sector, 8);
        memcpy(&v[3], data + at + 3 * sector, 8);
        a = _mm_crc32_u64(a, v[0]);
        b = _mm_crc32_u64(b, v[1]);
        c = _mm_crc32_u64(c, v[2]);
        d = _mm_crc32_u64(d, v[3]);
    }
    found[0] = (uint32_t)a, found[1] = (uint32_t)b, found[2] = (uint32_t)c, found[3] = (uint32_t)d;
}
#endif

/* Go on from the register of a checksum. */
static uint32_t onward(uint32_t crc, const unsigned char *data, size_t length) {
#ifdef HARDWARE
    if (__builtin_cpu_supports("sse4.2"))
        return hard(crc, data, length);
#endif
    return soft(crc, data, length);
}

static uint32_t crc(const unsigned char *data, size_t length) {
    return ~onward(0xffffffff, data, length);
}

static void put(unsigned char *to, uint32_t value) {
    for (int byte = 0; byte < 4; byte++)
        to[byte] = (unsigned char)(value >> 8 * byte);
}

#define P1 UINT64_C(0x9E3779B185EBCA87)
#define P2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define P3 UINT64_C(0x165667B19E3779F9)
#define P4 UINT64_C(0x85EBCA77C2B2AE63)
#define P5 UINT64_C(0x27D4EB2F165667C5)

static uint64_t rotated(uint64_t value, int bits) { return value << bits | value >> (64 - bits); }

static uint64_t mixed(uint64_t lane, uint64_t value) { return rotated(lane + value * P2, 31) * P1; }

static uint64_t xxh(const unsigned char *data, size_t length) {
    uint64_t sum = P5;
    size_t at = 0;
    if (length >= 32) {
        uint64_t lanes[4] = {P1 + P2, P2, 0, 0 - P1};
        for (; at + 32 <= length; at += 32)
            for (int lane = 0; lane < 4; lane++)
                lanes[lane] = mixed(lanes[lane], word(data + at + 8 * lane));
        sum = rotated(lanes[0], 1) + rotated(lanes[1], 7) + rotated(lanes[2], 12) + rotated(lanes[3], 18);
        for (int lane = 0; lane < 4; lane++)
            sum = (sum ^ mixed(0, lanes[lane])) * P1 + P4;
    }
    sum += length;
    for (; at + 8 <= length; at += 8)
        sum = rotated(sum ^ mixed(0, word(data + at)), 27) * P1 + P4;
    if (at + 4 <= length) {
        uint64_t half = (uint64_t)data[at] | (uint64_t)data[at + 1] << 8 | (uint64_t)data[at + 2] << 16
                        | (uint64_t)data[at + 3] << 24;
        sum = rotated(sum ^ half * P1, 23) * P2 + P3;
        at += 4;
    }
    for (; at < length; at++)
        sum = rotated(sum ^ data[at] * P5, 11) * P1;
    sum = (sum ^ sum >> 33) * P2;
    sum = (sum ^ sum >> 29) * P3;
    return sum ^ sum >> 32;
}

static PyObject *of_all(PyObject *args, int wide) {
    Py_buffer data;
    Py_ssize_t sector;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*n", &data, &sector))
        return NULL;
    if (sector < 1 || data.len % sector || (data.len / sector > 1 && sector % 8))
        PyErr_SetString(PyExc_ValueError, "whole sectors, of a multiple of eight bytes");
    else if ((result = PyBytes_FromStringAndSize(NULL, data.len / sector * (wide ? 8 : 4)))) {
        unsigned char *out = (unsigned char *)PyBytes_AsString(result);
        const unsigned char *from = data.buf;
        Py_ssize_t count = data.len / sector, at = 0;
        Py_BEGIN_ALLOW_THREADS
#ifdef HARDWARE
        if (!wide && __builtin_cpu_supports("sse4.2"))
            for (; at + 4 <= count; at += 4) {
                uint32_t found[4];
                four(found, from + at * sector, (size_t)sector);
                for (int one = 0; one < 4; one++)
                    for (int byte = 0; byte < 4; byte++)
                        out[4 * (at + one) + byte] = (unsigned char)(~found[one] >> 8 * byte);
            }
#endif
        for (; at < count; at++) {
            uint64_t sum = wide ? xxh(from + at * sector, (size_t)sector) : crc(from + at * sector, (size_t)sector);
            for (int byte = 0; byte < (wide ? 8 : 4); byte++)
                out[(wide ? 8 : 4) * at + byte] = (unsigned char)(sum >> 8 * byte);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(crc32c_doc, "crc32c(data, sector)\n--\n\n"
    "Return the CRC-32C of each sector, four bytes little-endian.\n\nRaises:\n    ValueError: no whole sectors.\n");

static PyObject *crc32c(PyObject *self, PyObject *args) {
    (void)self;
    return of_all(args, 0);
}

PyDoc_STRVAR(xxh64_doc, "xxh64(data, sector)\n--\n\n"
    "Return the XXH64 (seed 0) of each sector, eight bytes little-endian.\n\n"
    "Raises:\n    ValueError: no whole sectors.\n");

static PyObject *xxh64(PyObject *self, PyObject *args) {
    (void)self;
    return of_all(args, 1);
}

PyDoc_STRVAR(records_doc, "records(data, size, heads, holes, begun)\n--\n\n"
    "Return the CRC-32C of records of ``size`` bytes, four bytes little-endian each.\n\n"
    "Each goes on from the finished checksum ``begun``, and has its share of ``heads`` before it. ``holes`` are pairs\n"
    "of 16 bits, little-endian, ascending: bytes of a record that count as zeros, as where the checksum itself lies.\n\n"
    "Raises:\n    ValueError: no whole records, or holes that leave them.\n");

static PyObject *records(PyObject *self, PyObject *args) {
    Py_buffer data, heads, holes;
    Py_ssize_t size;
    unsigned int begun;
    PyObject *result = NULL;
    static const unsigned char zeros[64];
    (void)self;
    if (!PyArg_ParseTuple(args, "y*ny*y*I", &data, &size, &heads, &holes, &begun))
        return NULL;
    Py_ssize_t count = size > 0 ? data.len / size : 0, at = 0;
    const unsigned char *hole = holes.buf;
    int good = size > 0 && data.len % size == 0 && holes.len % 4 == 0 && (count ? heads.len % count == 0 : !heads.len);
    for (Py_ssize_t i = 0; good && i < holes.len; i += 4) {
        Py_ssize_t from = hole[i] | hole[i + 1] << 8, to = hole[i + 2] | hole[i + 3] << 8;
        good = at <= from && from < to && to <= size && to - from <= (Py_ssize_t)sizeof zeros;
        at = to;
    }
    if (!good)
        PyErr_SetString(PyExc_ValueError, "whole records, and holes in them");
    else if ((result = PyBytes_FromStringAndSize(NULL, 4 * count))) {
        unsigned char *out = (unsigned char *)PyBytes_AsString(result);
        Py_ssize_t head = count ? heads.len / count : 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t one = 0; one < count; one++) {
            const unsigned char *from = (const unsigned char *)data.buf + one * size;
            uint32_t sum = onward(~begun, (const unsigned char *)heads.buf + one * head, (size_t)head);
            at = 0;
            for (Py_ssize_t i = 0; i < holes.len; i += 4) {
                Py_ssize_t start = hole[i] | hole[i + 1] << 8, stop = hole[i + 2] | hole[i + 3] << 8;
                sum = onward(sum, from + at, (size_t)(start - at));
                sum = onward(sum, zeros, (size_t)(stop - start));
                at = stop;
            }
            put(out + 4 * one, ~onward(sum, from + at, (size_t)(size - at)));
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&heads);
    PyBuffer_Release(&holes);
    return result;
}

PyDoc_STRVAR(fletcher64_doc, "fletcher64(data)\n--\n\n"
    "Return the checksum of an object of APFS, eight bytes, as it is stored before its words of 32 bits.\n\n"
    "Raises:\n    ValueError: no whole words.\n");

static PyObject *fletcher64(PyObject *self, PyObject *args) {
    Py_buffer data;
    unsigned char out[8];
    const uint64_t modulus = 0xFFFFFFFFu;
    uint64_t first = 0, second = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    if (data.len % 4) {
        PyBuffer_Release(&data);
        PyErr_SetString(PyExc_ValueError, "whole words");
        return NULL;
    }
    const unsigned char *at = data.buf, *stop = at + data.len;
    Py_BEGIN_ALLOW_THREADS
    while (at < stop) { /* so many words that neither sum passes 64 bits */
        const unsigned char *until = stop - at > 32768 ? at + 32768 : stop;
        for (; at < until; at += 4) {
            first += (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24;
            second += first;
        }
        first %= modulus;
        second %= modulus;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    uint64_t low = modulus - (first + second) % modulus;
    put(out, (uint32_t)low);
    put(out + 4, (uint32_t)(modulus - (first + low) % modulus));
    return PyBytes_FromStringAndSize((const char *)out, 8);
}

PyDoc_STRVAR(exfat_doc, "exfat(data)\n--\n\n"
    "Return the checksum of 16 bits of bytes as exFAT's directories have it: rotated right, and the next byte added.\n");

static PyObject *exfat(PyObject *self, PyObject *args) {
    Py_buffer data;
    unsigned sum = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*", &data))
        return NULL;
    const unsigned char *at = data.buf, *stop = at + data.len;
    while (at < stop)
        sum = ((sum << 15 | sum >> 1) + *at++) & 0xFFFF;
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(sum);
}

static PyMethodDef methods[] = {
    {"exfat", exfat, METH_VARARGS, exfat_doc},
    {"fletcher64", fletcher64, METH_VARARGS, fletcher64_doc},
    {"crc32c", crc32c, METH_VARARGS, crc32c_doc},
    {"xxh64", xxh64, METH_VARARGS, xxh64_doc},
    {"records", records, METH_VARARGS, records_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_sums", "Checksums of many sectors in one call.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sums(void) {
    fill();
    return PyModuleDef_Init(&module);
}
