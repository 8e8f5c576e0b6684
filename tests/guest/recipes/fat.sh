# FAT and exFAT as the kernel writes and reads them: 10,000 files, and on small disks names, sizes, attributes.
# with: ../../backends/generated.py
# with: ../../backends/seen.py
# memory: 2048
# disk: fat12 1M
# disk: fat16 24M
# disk: fat32 256M
# disk: exfat 16M
# disk: exfat-large 384M
modprobe vfat; modprobe exfat; modprobe nls_cp437; modprobe nls_ascii; modprobe nls_utf8; modprobe nls_iso8859-1
options=utf8,tz=UTC,shortname=mixed
cat > /tmp/write.py << 'CODE'
import fcntl, os, struct, sys
where, clusters = os.fsencode(sys.argv[1]), int(sys.argv[2])
def file(name, data, moment=1_500_000_000_370_000_000):
    path = os.path.join(where, name)
    with open(path, "wb") as made:
        made.write(data)
    os.utime(path, ns=(moment, moment))
def text(count):
    return (b"%d bytes of some text\n" % count * (count // 16 + 2))[:count]
for size in sorted({0, 1} | {n + near for n in (512, clusters, 3 * clusters) for near in (-1, 0, 1)}):
    file(b"size %d" % size, text(size))
os.mkdir(where + b"/names")
for length in (1, 8, 12, 13, 14, 25, 26, 27, 39, 40, 128, 254, 255):
    file(b"names/" + (b"%d " % length + b"abcdefghij" * 26)[:length], b"%d" % length)
    if length < 255:
        file(("names/" + ("%d " % length + "\u8a9e" * 255)[:length]).encode(), b"%d" % length)
for name in ("UPPER.TXT", "lower.txt", "lower.TXT", "UPPER.txt2", "MiXed.Txt", "noend", ".hidden", "a.b.c",
             "Größe.txt", "\u65e5\u672c\u8a9e", "\U0001f600\U0001f600", "a+b,c;d=e[f]", "\xe5ngstrom", "A~1", "a   b"):
    file(b"names/" + name.encode(), name.encode())
for number, seconds in enumerate((315_532_800, 951_782_401, 1_456_704_001, 4_102_444_800, 4_354_819_199)):
    file(b"time %d" % number, b"", seconds * 10**9 + 990_000_000)
os.mkdir(where + b"/kept")
for number in range(0, 64):  # read-only, hidden, system, archive
    if not number & 0x18:
        path = where + b"/kept/attributes %d" % number
        with open(path, "wb") as made:
            made.write(b"x")
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, 0x40047211, struct.pack("I", number))  # FAT_IOCTL_SET_ATTRIBUTES
        except OSError:  # exFAT has none before 6.8
            pass
        os.close(handle)
os.makedirs(where + b"/deep" + b"/inner folder" * 12)
file(b"deep" + b"/inner folder" * 12 + b"/leaf", b"leaf")
os.mkdir(where + b"/turns")
for number in range(40):  # in pieces
    for name in (b"one", b"two"):
        with open(where + b"/turns/" + name, "ab") as made:
            made.write(bytes([65 + number % 26]) * 700)
            made.flush()
            os.fsync(made.fileno())
CODE
cat > /tmp/told.py << 'CODE'
import fcntl, os, struct, sys
sys.path.insert(0, "/recipe")
import seen
rows = {}
for path, row in seen.look(sys.argv[1]).items():
    handle = os.open(os.path.join(os.fsencode(sys.argv[1]), path), os.O_RDONLY)
    try:
        (kept,) = struct.unpack("I", fcntl.ioctl(handle, 0x80047210, bytes(4)))  # FAT_IOCTL_GET_ATTRIBUTES
        row = row._replace(xattrs={b"attributes": b"%d" % kept})
    except OSError:
        pass
    os.close(handle)
    rows[path] = row
seen.dump(rows, sys.stdout)
CODE
fill() { # disk, type, limits of the large tree or nothing, options
    mount -t "$2" -o "rw,$4" "/dev/guest/$1" /mnt
    if [ "$3" ]; then
        python3 -S /recipe/generated.py /mnt --files 10000 --limits "$3" > "/out/$1.made"
    else
        python3 -S /tmp/write.py /mnt "$(stat -f -c %S /mnt)"
    fi
    umount /mnt
    mount -t "$2" -o "ro,$4" "/dev/guest/$1" /mnt
    python3 -S /tmp/told.py /mnt > "/out/$1.rows"
    umount /mnt
}
for bits in 12 16 32; do
    mkfs.vfat -F $bits -n "LARGE $bits" -i 1234ABCD /dev/guest/fat$bits > /dev/null 2>&1
    fill fat$bits vfat "$([ $bits != 32 ] || echo fat)" $options
    fsck.vfat -n /dev/guest/fat$bits > /out/fat$bits.fsck || true # it takes E5 as a first letter for an error
done
mkfs.exfat -L "SMALL" -c 4096 /dev/guest/exfat > /dev/null
mkfs.exfat -L large /dev/guest/exfat-large > /dev/null
fill exfat exfat "" iocharset=utf8
fill exfat-large exfat exfat iocharset=utf8
