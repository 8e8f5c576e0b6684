# Caches: writethrough, writeback with dirty blocks, both forms of the metadata, a pool and a single volume.
# disk: slow 64M
# disk: fast 64M
. /recipe/lvm.shlib
modprobe dm-cache-smq || true
vg many slow fast
dirty() { # volume: writes that stay in the cache
    dmsetup message "many-$1" 0 migration_threshold 0
    pattern fill "$1y" "/dev/many/$1" 1200000 4000000
}
cached() { # volume, mode, form
    new many "$1" -l 32 /dev/guest/slow
    lvcreate -qq -y --type cache-pool -c 32K -l 16 --poolmetadatasize 2M --cachemetadataformat "$3" -n "$1_pool" many /dev/guest/fast
    lvconvert -qq -y --type cache --cachepool "$1_pool" --cachemode "$2" "many/$1"
    lvchange -qq --cachesettings 'migration_threshold=16384' "many/$1" || true
    for try in 1 2 3 4 5 6; do pattern digest "/dev/many/$1" > /dev/null; done
    for turn in 1 2 3; do
        pattern fill "$1x" "/dev/many/$1" 1000000 1000000
        dd if="/dev/many/$1" of=/dev/null bs=32K iflag=direct 2> /dev/null
    done
    dirty "$1"
}
cached through writethrough 2
cached back writeback 2
cached older writeback 1
new many single -l 32 /dev/guest/slow
lvcreate -qq -y -Wn -Zn -l 24 -n quick many /dev/guest/fast
lvconvert -qq -y --type cache --cachevol quick -c 32K --cachemode writeback many/single
for turn in 1 2 3; do
    pattern fill singlex /dev/many/single 1000000 1000000
    dd if=/dev/many/single of=/dev/null bs=32K iflag=direct 2> /dev/null
done
dirty single
truth many
