# What the kernel's udf makes of files: volumes of four kinds, filled, and what it reads of them afterwards.
# disk: rev102 8M
# disk: rev201 8M
# disk: long250 12M
# disk: spar 8M
# disk: big4k 12M sector=4096
modprobe udf
modprobe loop
make() { # name, mount options, of mkudffs
    name=$1 options=$2
    shift 2
    mkudffs --utf8 --label="$name é" "$@" "/dev/guest/$name"
    mount -t udf -o "$options" "/dev/guest/$name" /mnt
    python3 -S /recipe/files.shlib fill /mnt
    umount /mnt
    mount -t udf -o ro "/dev/guest/$name" /mnt
    python3 -S /recipe/files.shlib tell /mnt > "/out/$name.truth"
    umount /mnt
}
make rev102 rw --media-type=hd --udfrev=1.02 --blocksize=512
make rev201 rw --media-type=hd --udfrev=2.01 --blocksize=2048
make long250 rw,noadinicb,longad --media-type=hd --udfrev=2.01 --blocksize=1024
make spar rw --media-type=dvdrw --udfrev=1.50 --spartable=2 --blocksize=2048
make big4k rw --media-type=hd --udfrev=2.01 --blocksize=4096
