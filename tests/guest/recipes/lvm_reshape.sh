# RAID volumes that were reshaped: more stripes, another layout, taken over from another level.
# disk: a 32M
# disk: b 32M
# disk: c 32M
# disk: d 32M
# disk: e 32M
. /recipe/lvm.shlib
vg many a b c d e
new many wider --type raid5 -i 3 -I 16K -l 6
new many other --type raid5_ls -i 3 -I 16K -l 6
new many taken --type raid1 -m 1 -l 8
settle many
lvconvert -y --stripes 4 many/wider
settle many
lvconvert -y --type raid5_n many/other
settle many
lvconvert -y --type raid5 many/taken || true
settle many
sleep 3
vgchange -qq -an many # a larger size shows with the next activation
vgchange -qq -ay many
settle many
truth many
