# What Linux's out-of-tree apfs makes of files, and what it reads of them afterwards, snapshots as well.
# The module and its tools come from a disk "kit": python -m tests.backends.apfsrecorded adds it.
# with: ../../backends/seen.py
# disk: small 64M
# disk: cased 64M
# disk: exact 64M
# disk: snaps 64M
# disk: fusion 32M
# disk: second 64M
# disk: many 128M
mkdir -p /kit
tar -C /kit -xf /dev/guest/kit
modprobe libcrc32c
insmod /kit/apfs.ko
fill() { # disk, mount options, words for the filler
    name=$1 options=$2
    shift 2
    mount -t apfs -o "readwrite$options" "/dev/guest/$name" /mnt
    python3 -S /recipe/apple.shlib small /mnt osx. "$@" > "/out/$name.refused"
    umount /mnt
}
tell() { # disk, mount options, name of the truth
    mount -t apfs -o "ro$2" "/dev/guest/$1" /mnt
    python3 -S /recipe/seen.py /mnt > "/out/$3.rows"
    umount /mnt
}
check() { # disk
    /kit/apfsck -cuw "/dev/guest/$1" > "/out/$1.fsck" 2>&1
}
/kit/mkapfs -L small /dev/guest/small
/kit/mkapfs -s -L cased /dev/guest/cased
/kit/mkapfs -s -z -L exact /dev/guest/exact
for disk in small cased exact; do
    fill $disk ""
    tell $disk "" $disk
    check $disk
done
/kit/mkapfs -L snaps /dev/guest/snaps
fill snaps ""
mount -t apfs -o readwrite /dev/guest/snaps /mnt
/kit/apfs-snap /mnt first
python3 -S /recipe/apple.shlib change /mnt 1
/kit/apfs-snap /mnt 'second é'
python3 -S /recipe/apple.shlib change /mnt 2
umount /mnt
tell snaps "" snaps
tell snaps ,snap=first snaps.first
tell snaps ",snap=second é" snaps.second
check snaps
/kit/mkapfs -L fusion -F /dev/guest/second /dev/guest/fusion
tell fusion ,tier2=/dev/guest/second fusion
/kit/apfsck -cuw -F /dev/guest/second /dev/guest/fusion > /out/fusion.fsck 2>&1
/kit/mkapfs -L many /dev/guest/many
fill many "" many
tell many "" many
check many
dmesg | grep -i apfs
