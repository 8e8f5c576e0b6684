# Volumes that nobody closed: a cache that writes back, a thin pool, a snapshot, a RAID.
# disk: a 48M
# disk: b 48M
# disk: c 16M
. /recipe/lvm.shlib
vg many a b c
new many back -l 32 /dev/guest/a
lvcreate -qq -y --type cache-pool -c 32K -l 16 --poolmetadatasize 2M -n pool many /dev/guest/b
lvconvert -qq -y --type cache --cachepool pool --cachemode writeback many/back
for turn in 1 2 3; do dd if=/dev/many/back of=/dev/null bs=32K iflag=direct 2> /dev/null; done
dmsetup message many-back 0 migration_threshold 0
pattern fill backy /dev/many/back 1200000 4000000
lvcreate -qq -y --type thin-pool -c 64K -l 32 --poolmetadatasize 2M -n thins many /dev/guest/a /dev/guest/b
lvcreate -qq -y -V 16M -T many/thins -n thin
pattern fill thin /dev/many/thin 1000000 3000000
new many base -l 16 /dev/guest/a
lvcreate -qq -y -s -c 4K -l 8 -n shot many/base /dev/guest/b
pattern fill basey /dev/many/base 1000000 1000000
new many five --type raid5 -i 2 -I 16K -l 4
until dmsetup status many-five | grep -q AAA; do sleep 0.2; done
pattern fill fivey /dev/many/five 100000 100000
truth many open
sleep 1
