# Every layout of RAID 6.
# memory: 1536
. /recipe/arrays.shlib
small="--data-offset=64"

for layout in left-asymmetric right-asymmetric left-symmetric right-symmetric parity-first \
    ddf-zero-restart ddf-N-restart ddf-N-continue \
    left-asymmetric-6 right-asymmetric-6 left-symmetric-6 right-symmetric-6 parity-first-6; do
    array six$layout 5 192 -l 6 -n 5 -e 1.2 -c 4 $small --layout=$layout
done
array six09 4 320 -l 6 -n 4 -e 0.90 -c 4
end
