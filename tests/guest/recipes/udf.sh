# What the kernel's udf makes of files: volumes of four kinds, filled, and what it reads of them afterwards.
# disk: rev102 8M
# disk: rev201 8M
# disk: long250 12M
# disk: spar 8M
# disk: big4k 12M sector=4096
cat > /tmp/udf.py << 'PYTHON'
"""Fill a mounted UDF volume (``fill``), and say everything about one (``tell``); runs in the guest."""

import hashlib
import os
import socket
import sys

NAMES = ["plain", "Größe und Länge", "жэвший", "\u65e5\u672c\u8a9e.txt", "emoji \U0001f600.txt", "x" * 254, "ж" * 126]


def fill(top: str) -> None:
    os.chdir(top)
    os.umask(0)
    sizes = (0, 1, 100, 511, 512, 1500, 2047, 2048, 2049, 4095, 4096, 4097, 65537, 300001)
    for size in sizes:
        with open(f"size{size}", "wb") as file:
            file.write(data(f"size{size}", size))
    for name in NAMES:
        with open(name, "wb") as file:
            file.write(b"named\n")
    parts = [open(f"part{n}", "wb") for n in range(3)]
    for step in range(60):  # in turn, so that each has many extents and goes on elsewhere
        for number, file in enumerate(parts):
            file.write(data(f"part{number}-{step}", 4096))
            os.fsync(file.fileno())
    with open("sparse", "wb") as file:
        for at in (0, 100_000, 1_000_000):
            file.seek(at)
            file.write(b"island")
        file.truncate(3_000_000)
    with open("hole", "wb") as file:
        file.truncate(1 << 20)
    os.makedirs("dir/sub/subsub")
    open("dir/sub/subsub/deep", "wb").write(b"deep\n")
    os.mkdir("many")
    for number in range(120):
        open(f"many/file{number:04d}", "wb").write(b"%d\n" % number)
    for number in range(0, 120, 7):
        os.unlink(f"many/file{number:04d}")
    os.link("size100", "dir/linked")
    os.link("size100", "dir/again")
    for number, target in enumerate(("plain", "../x/./y", "/etc/passwd", "a//b", "t" * 200, "dir/sub/ж", ".", "..")):
        os.symlink(target, f"link{number}")
    os.mkfifo("fifo", 0o640)
    os.mknod("char", 0o20600, os.makedev(5, 1))
    os.mknod("block", 0o60660, os.makedev(8, 17))
    socket.socket(socket.AF_UNIX).bind("socket")
    for mode in (0o000, 0o400, 0o124, 0o753, 0o4755, 0o2711, 0o1777):
        open(f"mode{mode:o}", "wb").close()
        os.chmod(f"mode{mode:o}", mode)
    open("owned", "wb").close()
    os.chown("owned", 1000, 70000)
    for seconds in (-86400 * 365 * 20, -1, 0, 1, 2**31 + 5, 2**32 + 7, 1_500_000_000):
        open(f"time{seconds}", "wb").close()
        os.utime(f"time{seconds}", ns=(seconds * 10**9 + 123_456_000, seconds * 10**9 + 987_654_000))
    os.sync()


def data(name: str, size: int) -> bytes:
    found = b""
    seed = name.encode()
    word = hashlib.sha256(seed).digest()
    found = word * (size // 32 + 1)
    return found[:size]


def tell(top: str) -> None:
    top = os.fsencode(top)
    rows = {}
    for folder, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(folder, name)
            said = os.lstat(path)
            kind = said.st_mode >> 12
            body = None
            if kind == 8:
                with open(path, "rb") as file:
                    body = hashlib.sha256(file.read()).hexdigest()
                    said_blocks = said.st_blocks
            elif kind == 10:
                body = os.readlink(path)
            rows[path[len(top) + 1 :]] = (
                kind, said.st_mode & 0o7777, said.st_uid, said.st_gid, said.st_nlink, said.st_ino,
                said.st_size if kind in (8, 10) else 0, said.st_rdev if kind in (2, 6) else 0,
                said.st_mtime_ns, said.st_atime_ns, said.st_ctime_ns, said.st_blocks, body,
            )  # fmt: skip
    print(repr(rows))


{"fill": fill, "tell": tell}[sys.argv[1]](sys.argv[2])
PYTHON
modprobe udf
modprobe loop
make() { # name, mount options, of mkudffs
    name=$1 options=$2
    shift 2
    mkudffs --utf8 --label="$name é" "$@" "/dev/guest/$name"
    mount -t udf -o "$options" "/dev/guest/$name" /mnt
    python3 -S /tmp/udf.py fill /mnt
    umount /mnt
    mount -t udf -o ro "/dev/guest/$name" /mnt
    python3 -S /tmp/udf.py tell /mnt > "/out/$name.truth"
    umount /mnt
}
make rev102 rw --media-type=hd --udfrev=1.02 --blocksize=512
make rev201 rw --media-type=hd --udfrev=2.01 --blocksize=2048
make long250 rw,noadinicb,longad --media-type=hd --udfrev=2.01 --blocksize=1024
make spar rw --media-type=dvdrw --udfrev=1.50 --spartable=2 --blocksize=2048
make big4k rw --media-type=hd --udfrev=2.01 --blocksize=4096
