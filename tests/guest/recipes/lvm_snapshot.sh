# Snapshots of the old kind: several of one origin, chunk sizes, one that is full, one that is being merged.
# disk: a 48M
# disk: b 48M
. /recipe/lvm.shlib
vg many a b
new many base -l 24
lvcreate -qq -y -s -c 4K -l 16 -n first many/base
pattern fill other /dev/many/base 1048576 700000
lvcreate -qq -y -s -c 16K -l 12 -n second many/base
pattern fill third /dev/many/base 100000 300000
pattern fill mine /dev/many/second 3000000 200000
lvcreate -qq -y -s -c 8K -l 2 -n full many/base
pattern fill fourth /dev/many/base 4000000 1500000 || true
lvcreate -qq -y -s -c 8K -l 8 -n unused many/base
new many wide -l 40 -i 2 -I 16K
lvcreate -qq -y -s -c 32K -l 24 -i 2 -I 8K -n dealt many/wide
pattern fill wider /dev/many/wide 2000000 3000000
new many into -l 16
lvcreate -qq -y -s -c 4K -l 12 -n merged many/into
pattern fill later /dev/many/into 500000 900000
pattern fill own /dev/many/merged 2000000 400000
truth many
vgchange -qq -ay many
exec 3< /dev/many/into # in use: the merge waits for the next activation, and that is how the disks stay
lvconvert -qq -y --merge many/merged
exec 3<&-
vgchange -qq -an many
