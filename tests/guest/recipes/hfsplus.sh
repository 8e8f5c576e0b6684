# What the kernel's hfsplus makes of files, and what it reads of them afterwards: names as they are stored.
# with: ../../backends/hfsblank.py
# with: ../../backends/seen.py
# disk: plus 8M
# disk: cased 8M
modprobe hfsplus
modprobe nls_utf8
fill() { # disk, words of hfsblank
    name=$1
    shift
    python3 -S /recipe/hfsblank.py "/dev/guest/$name" 8 "$@"
    mount -t hfsplus -o nls=utf8 "/dev/guest/$name" /mnt
    python3 -S /recipe/apple.shlib small /mnt user. decorated > "/out/$name.refused"
    python3 -S /recipe/apple.shlib fragment /mnt
    umount /mnt
    mount -t hfsplus -o ro,nls=utf8,nodecompose "/dev/guest/$name" /mnt
    python3 -S /recipe/apple.shlib told /mnt > "/out/$name.rows"
    umount /mnt
}
fill plus
fill cased cased
