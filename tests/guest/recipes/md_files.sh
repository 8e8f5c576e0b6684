# File systems on arrays: what a mount has to find. The superblock of files1 lies 124 KiB before the end.
. /recipe/arrays.shlib
mkdir -p /mnt
files() { # files NAME SIZE: a file system with files of known data
    mkfs.ext4 -q -b 4096 -O ^has_journal $md
    mount -t ext4 $md /mnt
    for file in one two three; do
        : > /mnt/$file
        truncate -s "$2" /mnt/$file
        pattern fill "$1-$file" /mnt/$file
    done
    umount /mnt
    truth "$1"
    keep "$1"
}
members files5 4 1088
create files5 -l 5 -n 4 -e 1.2 -c 16 --data-offset=64
files files5 300K
members files1 2 2108
create files1 -l 1 -n 2 -e 0.90
files files1 200K
end
