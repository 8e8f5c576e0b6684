# Trees of 10,000 files that tests/backends/generated.py makes, where the host's kernel has no such file system.
# with: ../../backends/generated.py
# with: ../../backends/hfsblank.py
# with: ../../backends/seen.py
# memory: 2048
# disk: xfs 384M
# disk: udf 256M
# disk: hfsplus 256M
export TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1
large() { # disk, type, options of both mounts, of the second, what tells
    mount -t "$2" -o "rw$3" "/dev/guest/$1" /mnt
    python3 -S /recipe/generated.py /mnt --files 10000 --limits "$1" > "/out/$1.made"
    umount /mnt
    mount -t "$2" -o "ro$3$4" "/dev/guest/$1" /mnt
    python3 -S /recipe/$5 /mnt > "/out/$1.rows"
    umount /mnt
}
modprobe nls_utf8
mkfs.xfs -q -f -m crc=0 -L large /dev/guest/xfs
large xfs xfs "" ,norecovery seen.py
mkudffs --utf8 --label=large --media-type=hd --udfrev=2.01 --blocksize=2048 /dev/guest/udf > /dev/null
large udf udf "" "" seen.py
python3 -S /recipe/hfsblank.py /dev/guest/hfsplus 256
large hfsplus hfsplus ,nls=utf8 ,nodecompose "apple.shlib told"
