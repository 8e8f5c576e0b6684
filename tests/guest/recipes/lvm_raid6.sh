# All layouts of RAID 6.
# disk: a 24M
# disk: b 24M
# disk: c 24M
# disk: d 24M
# disk: e 24M
. /recipe/lvm.shlib
vg many a b c d e
for kind in zr nr nc n_6 la_6 ra_6 ls_6 rs_6; do
    new many "r6$kind" --type raid6_$kind -i 3 -I 8K -l 3
done
settle many
truth many
