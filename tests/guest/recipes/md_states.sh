# Arrays of md that are not whole, or in the middle of something.
# memory: 1536
. /recipe/arrays.shlib
small="--data-offset=64"
sys() { echo "/sys/block/${md#/dev/}/md"; }
nth() { echo $devices | cut -d' ' -f"$1"; }
# a member fails, and the others go on
for name in stale1 stale5 stale6; do
    case $name in
        stale1) members $name 2 320; create $name -l 1 -n 2 -e 1.2 $small --bitmap=none ;;
        stale5) members $name 4 320; create $name -l 5 -n 4 -e 1.2 -c 4 $small ;;
        stale6) members $name 5 320; create $name -l 6 -n 5 -e 1.2 -c 4 $small ;;
    esac
    pattern fill old $md
    sync
    mdadm $md --fail "$(nth 2)"
    mdadm $md --remove "$(nth 2)"
    [ $name != stale6 ] || { mdadm $md --fail "$(nth 4)"; mdadm $md --remove "$(nth 4)"; }
    fill $name
    keep $name
done
members stale09 3 320
create stale09 -l 5 -n 3 -e 0.90 -c 4
pattern fill old $md
mdadm $md --fail "$(nth 1)"
fill stale09
keep stale09

# a spare, and one that has taken over
members spare5 5 320
create spare5 -l 5 -n 4 -x 1 -e 1.2 -c 4 $small
mdadm $md --fail "$(nth 2)"
sleep 1
mdadm --wait $md || true
fill spare5
keep spare5

# a journal
members journal5 4 320,320,320,2304
d="$(nth 1) $(nth 2) $(nth 3)"
all=$devices
journal=$(nth 4)
devices=$d
create journal5 -l 5 -n 3 -e 1.2 -c 4 $small --write-journal "$journal"
devices=$all
fill journal5
keep journal5

# blocks that could not be written
for name in bad1 bad5 bad10; do
    case $name in
        bad1) members $name 2 320; create $name -l 1 -n 2 -e 1.2 $small --bitmap=none ;;
        bad5) members $name 4 320; create $name -l 5 -n 4 -e 1.2 -c 4 $small ;;
        bad10) members $name 4 320; create $name -l 10 -n 4 -e 1.2 -c 4 $small --layout=f2 ;;
    esac
    fill $name
    first=$(basename "$(nth 1)")
    second=$(basename "$(nth 2)")
    echo "145 9" > "$(sys)/dev-$first/bad_blocks"
    echo "300 30" > "$(sys)/dev-$second/bad_blocks"
    cat "$(sys)/dev-$first/bad_blocks" "$(sys)/dev-$second/bad_blocks"
    pattern fill $name $md 245760 4096 # so that superblocks are written again
    mdadm --wait-clean $md || true
    # what lies in those blocks is not what the array holds
    pattern fill old "$(nth 1)" 74240 4608
    pattern fill old "$(nth 2)" 153600 15360
    truth $name
    keep $name
done
end
