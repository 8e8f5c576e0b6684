/* Read and decode, or decrypt, strips beside the event loop: threads that never hold the interpreter's lock.
 *
 * A job is one strip: bytes of a host file that are read at once, and units in them that follow each other in
 * the result. It succeeds if every unit decodes to exactly as many bytes as it should; whatever else happens,
 * the job has failed, and somebody slower says why. Decoders are those of libraries that are fuzzed (libdeflate,
 * LZ4, Zstandard, snappy), taken from the system when this module is loaded; without one its codecs are not
 * offered. LZO is decoded by what is in _lzo1x.h.
 *
 * Ciphertext of AES-XTS is read to where its plaintext will be, where the processor has what _xts.c needs.
 *
 * Sources: posix_fadvise(2), eventfd(2); libdeflate.h, lz4.h, zstd.h, snappy-c.h.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "_lzo1x.h"
#include "_xts.h"

enum kind { ZLIB, DEFLATE, EWF, LZ4, ZSTD, XTS, LZO, SNAPPY, KINDS };
static const char *const KIND_NAMES[KINDS] = {"zlib", "deflate", "ewf", "lz4", "zstd", "aes-xts", "lzo", "snappy"};
enum flags { VERBATIM = 0, CODED = 1, PLAIN = 8 }; /* of a unit, as of a row of model.Packed */
enum { MOST_STORED = 4 << 20, MOST_UNITS = 1024, CHECKSUM = 4, VECTOR = 16, AT_ONCE = 256, NEAR = 1 << 20, AHEAD = 8 << 20 };

/* --- libraries ----------------------------------------------------------------------------------------- */

static void *(*deflate_new)(void);
static void (*deflate_free)(void *);
static int (*deflate_raw)(void *, const void *, size_t, void *, size_t, size_t *);
static int (*deflate_zlib)(void *, const void *, size_t, void *, size_t, size_t *);
static uint32_t (*deflate_adler32)(uint32_t, const void *, size_t);
static int (*lz4_safe)(const char *, char *, int, int);
static void *(*zstd_new)(void);
static size_t (*zstd_free)(void *);
static size_t (*zstd_frame)(const void *, size_t);
static size_t (*zstd_whole)(void *, void *, size_t, const void *, size_t);
static unsigned (*zstd_failed)(size_t);
static int (*snappy_whole)(const char *, size_t, char *, size_t *);

/* ISO C has no cast from an object to a function; POSIX wants it to work. */
static int find(void *library, const char *name, void *where) {
    void *found = library ? dlsym(library, name) : NULL;
    memcpy(where, &found, sizeof found);
    return found != NULL;
}

static int has[KINDS];

static void load(void) {
    void *one = dlopen("libdeflate.so.0", RTLD_NOW | RTLD_LOCAL);
    has[ZLIB] = find(one, "libdeflate_alloc_decompressor", &deflate_new) &
                find(one, "libdeflate_free_decompressor", &deflate_free) &
                find(one, "libdeflate_deflate_decompress", &deflate_raw) &
                find(one, "libdeflate_zlib_decompress", &deflate_zlib) &
                find(one, "libdeflate_adler32", &deflate_adler32);
    has[DEFLATE] = has[EWF] = has[ZLIB];
    one = dlopen("liblz4.so.1", RTLD_NOW | RTLD_LOCAL);
    has[LZ4] = find(one, "LZ4_decompress_safe", &lz4_safe);
    one = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    has[ZSTD] = find(one, "ZSTD_createDCtx", &zstd_new) & find(one, "ZSTD_freeDCtx", &zstd_free) &
                find(one, "ZSTD_findFrameCompressedSize", &zstd_frame) &
                find(one, "ZSTD_decompressDCtx", &zstd_whole) & find(one, "ZSTD_isError", &zstd_failed);
    one = dlopen("libsnappy.so.1", RTLD_NOW | RTLD_LOCAL);
    has[SNAPPY] = find(one, "snappy_uncompress", &snappy_whole);
    has[LZO] = 1;
    unsigned char key[32] = {0}, vector[VECTOR] = {0}, sector[512] = {0};
    has[XTS] = xts_wide(key, 16, vector, 1, sizeof sector, sector);
}

/* --- one job ------------------------------------------------------------------------------------------- */

typedef struct job {
    struct job *next;
    unsigned long long number;
    int fd, kind, advised, right;
    int64_t offset;
    size_t stored, unit;
    uint64_t first, step; /* number of the first sector, and from one to the next */
    Py_buffer cuts;       /* of each unit: uint32 begin, end, flags; checked against stored. XTS: the key */
    Py_buffer out;
} job;

typedef struct {
    unsigned char *stored;
    void *inflater, *zstd;
} tools; /* of one thread */

static int whole(int fd, unsigned char *to, size_t length, int64_t offset) {
    while (length) {
        ssize_t got = pread(fd, to, length, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 0;
        to += got;
        length -= (size_t)got;
        offset += got;
    }
    return 1;
}

static int inflated(const tools *t, const unsigned char *in, size_t held, unsigned char *to, size_t length) {
    size_t found = 0;
    return !deflate_zlib(t->inflater, in, held, to, length, &found) && found == length;
}

static int unit(const tools *t, int kind, const unsigned char *in, size_t held, uint32_t flags, unsigned char *to,
                size_t length) {
    size_t found = 0;
    if (flags == VERBATIM) {
        if (held < length)
            return 0;
        memcpy(to, in, length);
        return 1;
    }
    if (flags != CODED && (flags != PLAIN || (kind != EWF && kind != SNAPPY)))
        return 0;
    switch (kind) {
    case ZLIB:
        return inflated(t, in, held, to, length);
    case DEFLATE:
        return !deflate_raw(t->inflater, in, held, to, length, &found) && found == length;
    case EWF:
        if (flags == CODED)
            return inflated(t, in, held, to, length);
        if (held < length + CHECKSUM)
            return 0;
        uint32_t said = (uint32_t)in[length] | (uint32_t)in[length + 1] << 8 | (uint32_t)in[length + 2] << 16 |
                        (uint32_t)in[length + 3] << 24;
        memcpy(to, in, length);
        return deflate_adler32(1, to, length) == said;
    case LZ4:
        return lz4_safe((const char *)in, (char *)to, (int)held, (int)length) == (int)length;
    case ZSTD:
        held = zstd_frame(in, held); /* what is behind the frame is not its own */
        if (zstd_failed(held))
            return 0;
        found = zstd_whole(t->zstd, to, length, in, held);
        return !zstd_failed(found) && found == length;
    case LZO:
        return !lzo1x(in, held, to, length, &found) && found == length;
    case SNAPPY: /* PLAIN: a unit that does not decode, and is as long as it should be, is verbatim */
        found = length;
        if (!snappy_whole((const char *)in, held, (char *)to, &found))
            return found == length;
        if (flags != PLAIN || held != length)
            return 0;
        memcpy(to, in, length);
        return 1;
    }
    return 0;
}

static int decrypted(const job *j) {
    unsigned char vectors[AT_ONCE * VECTOR], *data = j->out.buf;
    size_t left = (size_t)j->out.len / j->unit;
    uint64_t number = j->first;
    if (!whole(j->fd, data, j->stored, j->offset))
        return 0;
    while (left) {
        size_t count = left < AT_ONCE ? left : AT_ONCE;
        memset(vectors, 0, sizeof vectors);
        for (size_t i = 0; i < count; i++, number += j->step)
            for (int byte = 0; byte < 8; byte++)
                vectors[i * VECTOR + (size_t)byte] = (unsigned char)(number >> 8 * byte);
        if (!xts_wide(j->cuts.buf, (size_t)j->cuts.len / 2, vectors, count, j->unit, data))
            return 0;
        data += count * j->unit;
        left -= count;
    }
    return 1;
}

static int decoded(const tools *t, const job *j) {
    if (j->kind == XTS)
        return decrypted(j);
    const uint32_t *cut = j->cuts.buf;
    size_t count = (size_t)j->cuts.len / 12, left = (size_t)j->out.len;
    unsigned char *to = j->out.buf;
    if (!whole(j->fd, t->stored, j->stored, j->offset))
        return 0;
    for (; count; count--, cut += 3) {
        size_t length = left < j->unit ? left : j->unit;
        if (!unit(t, j->kind, t->stored + cut[0], cut[1] - cut[0], cut[2], to, length))
            return 0;
        to += length;
        left -= length;
    }
    return !left;
}

/* --- the threads' queue -------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    pthread_mutex_t lock;
    pthread_cond_t more;
    job *first, **last; /* waiting, the oldest first */
    job *done;
    int event, closed, running;
    int ahead;             /* whose bytes were announced last, up to `until` */
    int64_t behind, until; /* and where the last job announced ends */
} Engine;

static void release(job *j) {
    PyBuffer_Release(&j->cuts);
    PyBuffer_Release(&j->out);
    free(j);
}

/* Announce what waits to be read. The kernel may wait for room in the disk's queue: not under the lock. */
static void announce(Engine *e) {
    for (;;) {
        pthread_mutex_lock(&e->lock);
        job *j = e->first;
        while (j && j->advised)
            j = j->next;
        if (!j) {
            pthread_mutex_unlock(&e->lock);
            return;
        }
        j->advised = 1;
        int fd = j->fd;
        int64_t start = j->offset, stop = j->offset + (int64_t)j->stored;
        if (fd == e->ahead && start >= e->behind - NEAR && start <= e->behind + NEAR) { /* who reads on will go on */
            e->behind = stop;
            stop += AHEAD;
            start = start > e->until ? start : e->until;
            e->until = stop > e->until ? stop : e->until;
        } else
            e->ahead = fd, e->behind = e->until = stop;
        pthread_mutex_unlock(&e->lock);
        if (start < stop)
            posix_fadvise(fd, start, stop - start, POSIX_FADV_WILLNEED);
    }
}

static int equipped(tools *t) {
    t->stored = malloc(MOST_STORED);
    t->inflater = has[ZLIB] ? deflate_new() : NULL;
    t->zstd = has[ZSTD] ? zstd_new() : NULL;
    return t->stored && (t->inflater || !has[ZLIB]) && (t->zstd || !has[ZSTD]);
}

static void serve(Engine *e) {
    tools t;
    int able = equipped(&t);
    static const uint64_t ONE = 1;
    for (;;) {
        pthread_mutex_lock(&e->lock);
        while (!e->first && !e->closed)
            pthread_cond_wait(&e->more, &e->lock);
        job *j = e->first;
        if (j) {
            e->first = j->next;
            if (!e->first)
                e->last = &e->first;
        }
        pthread_mutex_unlock(&e->lock);
        if (!j)
            break;
        announce(e);
        j->right = able && decoded(&t, j);
        pthread_mutex_lock(&e->lock);
        j->next = e->done;
        e->done = j;
        pthread_mutex_unlock(&e->lock);
        while (write(e->event, &ONE, sizeof ONE) < 0 && errno == EINTR)
            ;
    }
    free(t.stored);
    if (t.inflater)
        deflate_free(t.inflater);
    if (t.zstd)
        zstd_free(t.zstd);
}

/* --- Python -------------------------------------------------------------------------------------------- */

static PyObject *Engine_new(PyTypeObject *type, PyObject *args, PyObject *named) {
    (void)args, (void)named;
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Engine *e = (Engine *)make(type, 0);
    if (!e)
        return NULL;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->more, NULL);
    e->last = &e->first;
    e->ahead = -1;
    e->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->event < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(e);
        return NULL;
    }
    return (PyObject *)e;
}

static void forget(job *j) {
    while (j) {
        job *next = j->next;
        release(j);
        j = next;
    }
}

/* No thread is in `work`: each holds a reference. */
static void Engine_dealloc(PyObject *self) {
    Engine *e = (Engine *)self;
    PyTypeObject *type = Py_TYPE(self);
    forget(e->first);
    forget(e->done);
    if (e->event >= 0)
        close(e->event);
    pthread_cond_destroy(&e->more);
    pthread_mutex_destroy(&e->lock);
    freefunc free_ = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_(self);
    Py_DECREF(type);
}

static PyObject *Engine_fileno(PyObject *self, PyObject *none) {
    (void)none;
    return PyLong_FromLong(((Engine *)self)->event);
}

static PyObject *Engine_work(PyObject *self, PyObject *none) {
    (void)none;
    Py_BEGIN_ALLOW_THREADS;
    serve((Engine *)self);
    Py_END_ALLOW_THREADS;
    Py_RETURN_NONE;
}

static int checked(const job *j) {
    const uint32_t *cut = j->cuts.buf;
    if (j->offset < 0 || j->offset > INT64_MAX / 2)
        return 0;
    if (j->kind == XTS)
        return has[XTS] && (j->cuts.len == 32 || j->cuts.len == 64) && j->unit >= VECTOR && j->unit % VECTOR == 0 &&
               j->out.len && j->stored == (size_t)j->out.len && j->stored % j->unit == 0;
    size_t count = (size_t)j->cuts.len / 12;
    if (j->cuts.len % 12 || !count || count > MOST_UNITS || j->kind < 0 || j->kind >= KINDS || !has[j->kind])
        return 0;
    if (!j->stored || j->stored > MOST_STORED || !j->unit || j->unit > (size_t)j->out.len)
        return 0;
    if (((size_t)j->out.len + j->unit - 1) / j->unit != count || j->out.len > INT32_MAX)
        return 0;
    for (; count; count--, cut += 3)
        if (cut[0] > cut[1] || cut[1] > j->stored)
            return 0;
    return 1;
}

static PyObject *Engine_submit(PyObject *self, PyObject *args) {
    Engine *e = (Engine *)self;
    long long offset;
    unsigned long long first = 0, step = 0;
    Py_ssize_t stored, unit_;
    PyObject *cuts, *out;
    job *j = calloc(1, sizeof *j);
    if (!j)
        return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "KiiLnnOO|KK", &j->number, &j->kind, &j->fd, &offset, &stored, &unit_, &cuts, &out,
                          &first, &step)) {
        free(j);
        return NULL;
    }
    j->first = first;
    j->step = step;
    j->offset = offset;
    j->stored = stored > 0 ? (size_t)stored : 0;
    j->unit = unit_ > 0 ? (size_t)unit_ : 0;
    if (PyObject_GetBuffer(cuts, &j->cuts, PyBUF_SIMPLE)) {
        free(j);
        return NULL;
    }
    if (PyObject_GetBuffer(out, &j->out, PyBUF_WRITABLE)) {
        PyBuffer_Release(&j->cuts);
        free(j);
        return NULL;
    }
    if (!checked(j)) {
        release(j);
        PyErr_SetString(PyExc_ValueError, "a strip that cannot be");
        return NULL;
    }
    pthread_mutex_lock(&e->lock);
    *e->last = j;
    e->last = &j->next;
    pthread_cond_signal(&e->more);
    pthread_mutex_unlock(&e->lock);
    Py_RETURN_NONE;
}

static PyObject *Engine_finished(PyObject *self, PyObject *none) {
    (void)none;
    Engine *e = (Engine *)self;
    uint64_t count;
    if (read(e->event, &count, sizeof count) < 0 && errno != EAGAIN)
        return PyErr_SetFromErrno(PyExc_OSError);
    pthread_mutex_lock(&e->lock);
    job *j = e->done;
    e->done = NULL;
    pthread_mutex_unlock(&e->lock);
    PyObject *list = PyList_New(0);
    while (j) {
        job *next = j->next;
        PyObject *row = list ? Py_BuildValue("KN", j->number, PyBool_FromLong(j->right)) : NULL;
        release(j);
        j = next;
        if (row && PyList_Append(list, row)) {
            Py_CLEAR(list);
        } else if (!row) {
            Py_CLEAR(list);
        }
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *Engine_close(PyObject *self, PyObject *none) {
    (void)none;
    Engine *e = (Engine *)self;
    pthread_mutex_lock(&e->lock);
    e->closed = 1;
    job *waiting = e->first;
    e->first = NULL;
    e->last = &e->first;
    pthread_cond_broadcast(&e->more);
    pthread_mutex_unlock(&e->lock);
    forget(waiting);
    Py_RETURN_NONE;
}

static PyMethodDef engine_methods[] = {
    {"fileno", Engine_fileno, METH_NOARGS, "Return what becomes readable when jobs are done."},
    {"work", Engine_work, METH_NOARGS, "Do jobs until `close`, without the interpreter's lock."},
    {"submit", Engine_submit, METH_VARARGS,
     "submit(number, kind, fd, offset, stored, unit, cuts, out[, first, step]): add a job; `out` is its own until it\n"
     "is done. Ciphertext: sectors of `unit` bytes, numbered from `first` in steps, and the key in place of cuts."},
    {"finished", Engine_finished, METH_NOARGS, "Return (number, right) of jobs that are done, each once."},
    {"close", Engine_close, METH_NOARGS, "Drop what waits and let threads leave `work`."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_new, Engine_new},
    {Py_tp_dealloc, Engine_dealloc},
    {Py_tp_methods, engine_methods},
    {Py_tp_doc, "Jobs, and the threads that do them."},
    {0, NULL},
};

static PyType_Spec engine_spec = {"imgfs.block._strips.Engine", sizeof(Engine), 0, Py_TPFLAGS_DEFAULT, engine_slots};

static int filled(PyObject *module) {
    load();
    PyObject *type = PyType_FromSpec(&engine_spec);
    if (!type || PyModule_AddObjectRef(module, "Engine", type)) {
        Py_XDECREF(type);
        return -1;
    }
    Py_DECREF(type);
    PyObject *kinds = PyDict_New();
    for (int kind = 0; kinds && kind < KINDS; kind++) {
        PyObject *number = has[kind] ? PyLong_FromLong(kind) : NULL;
        if (has[kind] && (!number || PyDict_SetItemString(kinds, KIND_NAMES[kind], number)))
            Py_CLEAR(kinds);
        Py_XDECREF(number);
    }
    if (!kinds || PyModule_AddObjectRef(module, "KINDS", kinds)) {
        Py_XDECREF(kinds);
        return -1;
    }
    Py_DECREF(kinds);
    return PyModule_AddIntConstant(module, "MOST_STORED", MOST_STORED) |
           PyModule_AddIntConstant(module, "MOST_UNITS", MOST_UNITS);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, filled}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_strips", "Strips, read and decoded by threads without the interpreter's lock.",
    0, NULL, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__strips(void) { return PyModuleDef_Init(&module); }
