/* Initial vectors that are digests, without the interpreter's lock.
 *
 * Source: RFC 2104 (HMAC); vfdecrypt, Weinmann, Appelbaum and Fromme, 2006: the vector of a block of an encrypted
 * Apple disk image is the start of HMAC-SHA1 of its number, in big-endian order.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 64 /* bytes that SHA-1 takes at a time */
#define DIGEST 20
#define VECTOR 16

/* Start a digest with the key added to a byte over and over. */
static EVP_MD_CTX *begun(const unsigned char *key, size_t length, unsigned char with) {
    unsigned char block[BLOCK];
    memset(block, with, sizeof block);
    for (size_t i = 0; i < length; i++)
        block[i] ^= key[i];
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (context && EVP_DigestInit_ex(context, EVP_sha1(), NULL) && EVP_DigestUpdate(context, block, sizeof block))
        return context;
    EVP_MD_CTX_free(context);
    return NULL;
}

static int finish(EVP_MD_CTX *context, const EVP_MD_CTX *from, const unsigned char *data, size_t length,
                  unsigned char *digest) {
    return EVP_MD_CTX_copy_ex(context, from) && EVP_DigestUpdate(context, data, length)
        && EVP_DigestFinal_ex(context, digest, NULL);
}

static int vectors(const unsigned char *key, size_t length, uint64_t first, uint64_t step, Py_ssize_t count,
                   unsigned char *to) {
    EVP_MD_CTX *inner = begun(key, length, 0x36), *outer = begun(key, length, 0x5c), *context = EVP_MD_CTX_new();
    int good = inner && outer && context;
    for (Py_ssize_t i = 0; good && i < count; i++, first += step, to += VECTOR) {
        unsigned char digest[DIGEST], number[4];
        for (int byte = 0; byte < 4; byte++)
            number[byte] = (unsigned char)(first >> 8 * (3 - byte));
        good = finish(context, inner, number, sizeof number, digest)
            && finish(context, outer, digest, sizeof digest, digest);
        memcpy(to, digest, VECTOR);
    }
    EVP_MD_CTX_free(inner);
    EVP_MD_CTX_free(outer);
    EVP_MD_CTX_free(context);
    return good;
}

PyDoc_STRVAR(hmac_sha1_doc, "hmac_sha1(key, first, step, count)\n--\n\n"
    "Return the first 16 bytes of HMAC-SHA1 of the numbers ``first`` + i * ``step``, as 32 bits in big-endian order.\n\n"
    "Raises:\n    ValueError: a key of more than 64 bytes, a negative count, or OpenSSL refuses it.");

static PyObject *hmac_sha1(PyObject *self, PyObject *args) {
    Py_buffer key;
    unsigned long long first, step;
    Py_ssize_t count;
    PyObject *result = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "y*KKn", &key, &first, &step, &count))
        return NULL;
    int good = key.len <= BLOCK && count >= 0 && count <= 1 << 26;
    if (good && (result = PyByteArray_FromStringAndSize(NULL, VECTOR * count))) {
        unsigned char *to = (unsigned char *)PyByteArray_AsString(result);
        Py_BEGIN_ALLOW_THREADS
        good = vectors(key.buf, (size_t)key.len, first, step, count, to);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&key);
    if (!good) {
        Py_XDECREF(result);
        PyErr_SetString(PyExc_ValueError, "no HMAC-SHA1 of that");
        return NULL;
    }
    return result;
}

static PyMethodDef methods[] = {
    {"hmac_sha1", hmac_sha1, METH_VARARGS, hmac_sha1_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_vectors", "Initial vectors that are digests.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__vectors(void) {
    return PyModuleDef_Init(&module);
}
