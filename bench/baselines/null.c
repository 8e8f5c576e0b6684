/* A file system that does nothing: the price of FUSE itself. Same tree as null.py.
   null MOUNTPOINT SIZE DIRECTORIES FILES_EACH
   gcc -O2 null.c -o null `pkg-config --cflags --libs fuse3` */
#define FUSE_USE_VERSION 34
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BIG = 2, TREE = 3, FOLDER = 1000, FILE0 = 1 << 20 };
static const double FOREVER = 3600;
static off_t size;
static int folders, each;
static char *zeros;

static int is_folder(fuse_ino_t ino) { return ino == 1 || ino == TREE || (ino >= FOLDER && ino < FILE0); }

static void fill(fuse_ino_t ino, struct stat *s) {
    memset(s, 0, sizeof *s);
    s->st_ino = ino;
    s->st_mode = is_folder(ino) ? S_IFDIR | 0755 : S_IFREG | 0644;
    s->st_nlink = 1;
    s->st_size = ino == BIG ? size : 4096;
    s->st_mtime = s->st_ctime = s->st_atime = 1700000000;
}

static void entry(fuse_ino_t ino, struct fuse_entry_param *e) {
    memset(e, 0, sizeof *e);
    e->ino = ino;
    fill(ino, &e->attr);
    e->attr_timeout = e->entry_timeout = FOREVER;
}

static void null_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
    struct stat s;
    (void)fi;
    fill(ino, &s);
    fuse_reply_attr(req, &s, FOREVER);
}

static void null_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
    struct fuse_entry_param e;
    fuse_ino_t ino = 0;
    if (parent == 1) ino = !strcmp(name, "big.bin") ? BIG : !strcmp(name, "tree") ? TREE : 0;
    else if (parent == TREE && name[0] == 'd') ino = FOLDER + atoi(name + 1);
    else if (!strncmp(name, "report_", 7)) ino = FILE0 + (parent - FOLDER) * each + atoi(name + 7);
    if (!ino) { fuse_reply_err(req, ENOENT); return; }
    entry(ino, &e);
    fuse_reply_entry(req, &e);
}

static void null_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t room, off_t start, struct fuse_file_info *fi) {
    char *out = malloc(room), name[64];
    size_t used = 0;
    int count = ino == 1 ? 2 : ino == TREE ? folders : each;
    (void)fi;
    for (int j = start; j < count; j++) {
        struct fuse_entry_param e;
        if (ino == 1) { strcpy(name, j ? "tree" : "big.bin"); entry(j ? TREE : BIG, &e); }
        else if (ino == TREE) { snprintf(name, sizeof name, "d%d", j); entry(FOLDER + j, &e); }
        else { snprintf(name, sizeof name, "report_%06d_summary.docx", j); entry(FILE0 + (ino - FOLDER) * each + j, &e); }
        size_t needed = fuse_add_direntry_plus(req, out + used, room - used, name, &e, j + 1);
        if (needed > room - used) break;
        used += needed;
    }
    fuse_reply_buf(req, out, used);
    free(out);
}

static void null_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi) {
    (void)ino;
    fi->keep_cache = 1;
    fuse_reply_open(req, fi);
}

static void null_read(fuse_req_t req, fuse_ino_t ino, size_t length, off_t at, struct fuse_file_info *fi) {
    off_t end = ino == BIG ? size : 4096;
    (void)fi;
    if (at >= end) { fuse_reply_buf(req, 0, 0); return; }
    if (at + (off_t)length > end) length = end - at;
    fuse_reply_buf(req, zeros, length);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = null_lookup, .getattr = null_getattr, .readdirplus = null_readdirplus, .open = null_open, .read = null_read,
};

int main(int count, char **words) {
    if (count != 5) { fprintf(stderr, "null MOUNTPOINT SIZE DIRECTORIES FILES_EACH\n"); return 2; }
    size = atoll(words[2]);
    folders = atoi(words[3]);
    each = atoi(words[4]);
    zeros = calloc(1, 2 << 20);
    char *options[] = {words[0], "-oro,fsname=null,default_permissions"};
    struct fuse_args args = FUSE_ARGS_INIT(2, options);
    struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, 0);
    if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, words[1])) return 1;
    int failed = fuse_session_loop(session);
    fuse_session_unmount(session);
    fuse_session_destroy(session);
    return failed;
}
