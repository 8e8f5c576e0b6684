# disk: a 32M
# disk: b 32M
# disk: c 32M
# disk: rt 16M
# XFS as kernels of today may refuse it: version 4 in two sizes of block, and files on a real-time device.
export TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1
mkdir -p /mnt /out
cat > /tmp/write.py << 'CODE'
import os, sys
where = b"/mnt/"
def text(count, seed):
    return (b"%d line of some text\n" % seed * (count // 15 + 2))[:count]
for size in (0, 1, 4095, 4096, 4097, 70000):
    open(where + b"file %d" % size, "wb").write(text(size, size))
with open(where + b"tree", "wb") as file:
    for number in range(400):
        file.seek(number * 8192)
        file.write(text(1024, number))
with open(where + b"sparse", "wb") as file:
    file.seek(5000001)
    file.write(b"end")
with open(where + b"reserved", "wb") as file:
    os.posix_fallocate(file.fileno(), 0, 100000)
    file.write(b"begin")
for count in (0, 3, 10, 60, 900):
    os.mkdir(where + b"names %d" % count)
    for number in range(count):
        open(where + b"names %d/%s%d" % (count, b"n" * (number % 60), number), "wb").close()
for number in range(0, 900, 7):
    os.unlink(where + b"names 900/%s%d" % (b"n" * (number % 60), number))
for length in (1, 100, 156, 157, 500, 1023):
    os.symlink(b"t" * length, where + b"link %d" % length)
os.mkdir(where + b"a")
acl = bytes.fromhex("0200000001000600ffffffff020007007111010004000400ffffffff10000700ffffffff20000000ffffffff")
for count in (1, 5, 40, 300):
    path = where + b"a/%d" % count
    open(path, "wb").close()
    for number in range(count):
        os.setxattr(path, b"user.attribute %d" % number, text(number % 90, number))
    os.setxattr(path, b"trusted.one", b"trusted")
    os.setxattr(path, b"security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.setxattr(path, b"system.posix_acl_access", acl)
for size in (254, 255, 256, 3000, 4096, 20000):
    path = where + b"a/value %d" % size
    open(path, "wb").close()
    os.setxattr(path, b"user.value", text(size, size))
for one in (b"p", b"q"):
    open(where + b"a/" + one, "wb").close()
for number in range(40):
    for one in (b"p", b"q"):
        os.setxattr(where + b"a/" + one, b"user.%d" % number, text(5000, number))
os.setxattr(where + b"a", b"system.posix_acl_default", acl)
os.link(where + b"file 1", where + b"hard")
os.mkfifo(where + b"fifo")
os.mknod(where + b"null", 0o20666, os.makedev(1, 3))
os.mknod(where + b"wide", 0o60640, os.makedev(300, 70000))
os.chown(where + b"file 4096", 70000, 80000)
os.chmod(where + b"file 4096", 0o6711)
for name, seconds in ((b"file 1", -5), (b"file 4095", 2**31 - 2)):
    os.utime(where + name, ns=(seconds * 10**9 + 987654321, seconds * 10**9 + 123456789))
CODE
cat > /tmp/look.py << 'CODE'
import hashlib, os, stat, sys
def said(path, name):
    told = os.lstat(path)
    row = [name.hex(), told.st_ino, told.st_mode, told.st_nlink, told.st_uid, told.st_gid, told.st_rdev, told.st_size]
    row += [told.st_blocks * 512, told.st_mtime_ns, told.st_atime_ns, told.st_ctime_ns]
    what = b""
    if stat.S_ISREG(told.st_mode):
        what = open(path, "rb").read()
    elif stat.S_ISLNK(told.st_mode):
        what = os.readlink(path)
    row.append(hashlib.sha256(what).hexdigest()[:16])
    keys = sorted(os.listxattr(path, follow_symlinks=False))
    pairs = b"".join(b"%s=%s;" % (os.fsencode(key), os.getxattr(path, key, follow_symlinks=False)) for key in keys
                     if not key.startswith("trusted.SGI_ACL_"))
    row.append(hashlib.sha256(pairs).hexdigest()[:16] if keys else "")
    print(*row)
for folder, folders, names in os.walk(b"/mnt"):
    for name in folders + names:
        path = os.path.join(folder, name)
        said(path, os.path.relpath(path, b"/mnt"))
CODE
mkfs.xfs -q -f -m crc=0 -L old /dev/guest/a
mkfs.xfs -q -f -m crc=0 -n ftype=0 -b size=1k -i size=512,projid32bit=0 /dev/guest/b
for disk in a b; do
    mount -t xfs /dev/guest/$disk /mnt
    python3 -S /tmp/write.py
    umount /mnt
    mount -t xfs -o ro,norecovery /dev/guest/$disk /mnt
    python3 -S /tmp/look.py > /out/$disk
    umount /mnt
done
mkfs.xfs -q -f -m reflink=0,rmapbt=0 -r rtdev=/dev/guest/rt -d rtinherit=1 /dev/guest/c
mount -t xfs -o rtdev=/dev/guest/rt /dev/guest/c /mnt
printf 'on the real-time device' > /mnt/realtime
umount /mnt
