# What is rare: labels and areas in other places, volumes on their way elsewhere, virtual ones, checksums.
# disk: a 32M
# disk: b 32M
# disk: c 32M sector=4096
# disk: d 32M
. /recipe/lvm.shlib
pvcreate -qq -y --labelsector 3 --metadatacopies 2 /dev/guest/a
pvcreate -qq -y --labelsector 0 --dataalignment 3M --metadatasize 2M /dev/guest/b
pvcreate -qq -y --metadatacopies 0 /dev/guest/d
vgcreate -qq -s 256K many /dev/guest/a /dev/guest/b /dev/guest/d
vgextend -qq --config 'devices { allow_mixed_block_sizes=1 }' many /dev/guest/c
modprobe dm-integrity || true
new many moved -l 12 /dev/guest/a
new many whole -l 9 --addtag forensic /dev/guest/b
lvcreate -qq -y --type zero -l 3 -n zeros many || lvcreate -qq -y --type linear -l 3 -n zeros many
lvcreate -qq -y --type error -l 3 -n errors many || true
lvcreate -qq -y --type snapshot -l 8 -V 16M -c 8K -n virtual many /dev/guest/d
pattern fill virtual /dev/many/virtual 5000000 1000000
new many sums --type raid1 -m 1 -l 8 /dev/guest/b /dev/guest/d
settle many
lvconvert -qq -y --raidintegrity y many/sums || true
settle many
pattern fill sumsy /dev/many/sums 500000 700000
pvmove -qq -b -i 600 -n moved /dev/guest/a /dev/guest/b # copied, and nobody comes to finish it
sleep 4
pattern fill movedy /dev/many/moved 1000000 500000
truth many
lvs -a -o+segtype,devices many
vgexport -qq many || true
