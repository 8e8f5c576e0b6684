# A thin pool: volumes, snapshots of them, holes, discarded blocks, an external origin, a pool on RAID.
# disk: a 64M
# disk: b 64M
. /recipe/lvm.shlib
vg many a b
lvcreate -qq -y --type thin-pool -c 64K -l 96 --poolmetadatasize 2M -n pool many
lvcreate -qq -y -V 16M -T many/pool -n base
for at in 0 64 65 66 130 4096 8000; do
    pattern fill base /dev/many/base $((at * 1024)) 150000
done
lvcreate -qq -y -s -n early many/base
lvchange -qq -ay -K many/early
pattern fill base2 /dev/many/base 262144 1500000
blkdiscard -o 4194304 -l 131072 /dev/many/base
lvcreate -qq -y -s -n late many/base
lvchange -qq -ay -K many/late
pattern fill late /dev/many/late 1048576 300000
lvcreate -qq -y -V 5M -T many/pool -n empty
new many outer -l 16
lvchange -qq -an many/outer
lvchange -qq -pr many/outer
lvcreate -qq -y -s --thinpool pool -n over many/outer
pattern fill over /dev/many/over 524288 300000
lvextend -qq -L 6M many/over
pattern fill over /dev/many/over 5242880 100000
lvcreate -qq -y --type raid1 -m 1 -l 24 -n tdata many
lvcreate -qq -y --type raid1 -m 1 -l 8 -n tmeta many
settle many
lvconvert -qq -y --type thin-pool -c 128K --poolmetadata tmeta many/tdata
lvcreate -qq -y -V 20M -T many/tdata -n second
pattern fill second /dev/many/second 1000000 3000000
truth many
lvchange -qq -ay many/tdata_tmeta || lvs -a many
vgchange -qq -an many
