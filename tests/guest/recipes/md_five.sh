# Every layout of RAID 5.
# memory: 1536
. /recipe/arrays.shlib
small="--data-offset=64"

for layout in la ra ls rs parity-first parity-last; do
    array five$layout 4 320 -l 5 -n 4 -e 1.2 -c 4 $small --layout=$layout
done
array five09 3 320 -l 5 -n 3 -e 0.90 -c 8
array five10 3 320 -l 5 -n 3 -e 1.0 -c 4
end
