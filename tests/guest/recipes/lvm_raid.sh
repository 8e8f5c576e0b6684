# RAID levels and layouts of LVM2 with one parity or none, and mirrors of the old kind.
# disk: a 32M
# disk: b 32M
# disk: c 32M
# disk: d 32M
# disk: e 32M
# disk: f 32M
. /recipe/lvm.shlib
vg many a b c d e f
new many r0 --type raid0 -i 3 -I 16K -l 3
new many r0m --type raid0_meta -i 2 -I 16K -l 8
new many r1 --type raid1 -m 2 -l 6
new many r4 --type raid4 -i 3 -I 16K -l 3
new many r5 --type raid5 -i 3 -I 16K -l 3
for kind in la ra ls rs n; do
    new many "r5$kind" --type raid5_$kind -i 3 -I 8K -l 3
done
new many r10 --type raid10 -i 2 -m 1 -I 16K -l 4
new many r10b --type raid10 -i 3 -m 1 -I 16K -l 3
new many old --type mirror -m 1 -l 6
new many core --type mirror -m 1 --mirrorlog core -l 6
settle many
truth many
