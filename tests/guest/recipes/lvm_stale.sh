# RAID volumes that were written while a disk was away, which is back.
# disk: a 24M
# disk: b 24M
# disk: c 24M
# disk: d 24M
. /recipe/lvm.shlib
vg many a b c d
new many r1 --type raid1 -m 1 -l 8 /dev/guest/a /dev/guest/b
new many r5 --type raid5 -i 3 -I 16K -l 12
new many r6 --type raid6 -i 1 -I 16K -l 4 2> /dev/null || new many r10 --type raid10 -i 2 -m 1 -I 16K -l 8
settle many
vgchange -qq -an many
away=$(readlink -f /dev/guest/b) # every name of the disk has to be hidden
hidden="\"r|^$away\$|\", \"r|^/dev/guest/b\$|\", \"a|.*|\""
without="devices { filter=[ $hidden ] global_filter=[ $hidden ] }"
vgchange -ay --activationmode degraded --config "$without" many
for volume in r1 r5 r10; do
    pattern fill "${volume}y" /dev/many/$volume 500000 700000
done
sync
for volume in r1 r5 r10; do pattern digest /dev/many/$volume; done | sed "s:/dev/many/::" > /out/truth
vgchange -an --config "$without" many
