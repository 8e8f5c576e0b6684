# Arrays of md in the middle of something: recovery, replacement, resync, reshape.
# memory: 1536
. /recipe/arrays.shlib
small="--data-offset=64"
sys() { echo "/sys/block/${md#/dev/}/md"; }
nth() { echo $devices | cut -d' ' -f"$1"; }
frozen() {
    echo frozen > "$(sys)/sync_action"
    truth "$1"
    cat /proc/mdstat
    cat "$(sys)/reshape_position" || true
    keep "$1"
}
# halt SECTORS: stops what is being done, which shall go no further than there
halt() {
    echo frozen > "$(sys)/sync_action"
    sleep 0.5
    echo "$1" > "$(sys)/sync_max"
}
# wait until a limited resync or reshape has come to its limit
limited() {
    for tries in $(seq 200); do
        at=$(cut -d' ' -f1 "$(sys)/sync_completed")
        [ "$at" != "$1" ] || break
        sleep 0.1
    done
    echo "at $at"
}

# recovery that was stopped
members half5 5 704
d=$devices
devices="$(nth 1) $(nth 2) $(nth 3) $(nth 4)"
create half5 -l 5 -n 4 -e 1.2 -c 16 $small --bitmap=none --size=512
devices=$d
pattern fill half5 $md
mdadm $md --fail "$(nth 3)"
halt 512
mdadm $md --add "$(nth 5)"
echo recover > "$(sys)/sync_action"
limited 512
frozen half5

# a member that is being replaced
members replace5 4 704
d=$devices
devices="$(nth 1) $(nth 2) $(nth 3)"
create replace5 -l 5 -n 3 -e 1.2 -c 16 $small --bitmap=none --size=512
devices=$d
pattern fill replace5 $md
halt 256
mdadm $md --add "$(nth 4)"
mdadm $md --replace "$(nth 2)"
echo recover > "$(sys)/sync_action"
limited 256
frozen replace5

# a first resync that was stopped
members sync6 5 704
md=/dev/md$number
number=$((number + 1))
echo 200 > /proc/sys/dev/raid/speed_limit_max
for device in $devices; do
    pattern fill "old$(basename $device)" $device # so that parity is wrong where nobody put it right
done
yes | mdadm --create $md --quiet --run --homehost=guest --name=sync6 -l 6 -n 5 -e 1.2 -c 16 $small --size=512 --bitmap=none $devices
halt 256
echo 200000 > /proc/sys/dev/raid/speed_limit_max
echo resync > "$(sys)/sync_action"
limited 256
cat /proc/mdstat
truth sync6
frozen sync6

# changes of shape, stopped half way
reshaped() { # reshaped NAME SECTORS VALUE FILE...: writes VALUE into each FILE, and reshapes up to SECTORS of a member
    halt "$2"
    shift 2
    while [ $# -gt 1 ]; do
        echo "$1 into $2"
        echo "$1" > "$(sys)/$2"
        shift 2
    done
    echo reshape > "$(sys)/sync_action"
}

members grow5 5 704
d=$devices
devices="$(nth 1) $(nth 2) $(nth 3) $(nth 4)"
create grow5 -l 5 -n 4 -e 1.2 -c 16 $small --bitmap=none --size=512
devices=$d
pattern fill grow5 $md
mdadm $md --add "$(nth 5)"
reshaped grow5 384 5 raid_disks
limited 384
frozen grow5

members shrink5 5 704
create shrink5 -l 5 -n 5 -e 1.2 -c 16 $small --bitmap=none --size=512
mdadm --grow $md --array-size=1536
pattern fill shrink5 $md
reshaped shrink5 384 4 raid_disks
sleep 3
cat /proc/mdstat
frozen shrink5

members offset5 4 960
create offset5 -l 5 -n 4 -e 1.2 -c 16 --data-offset=256 --bitmap=none --size=512
pattern fill offset5 $md
for device in $devices; do
    echo 256 > "$(sys)/dev-$(basename $device)/new_offset" || echo "no new offset"
done
reshaped offset5 384 32768 chunk_size 0 layout
sleep 3
frozen offset5

members place5 4 704
create place5 -l 5 -n 4 -e 1.2 -c 16 $small --bitmap=none --size=512
pattern fill place5 $md
reshaped place5 384 32768 chunk_size 0 layout
sleep 3
frozen place5

members up6 5 960
d=$devices
devices="$(nth 1) $(nth 2) $(nth 3) $(nth 4)"
create up6 -l 5 -n 4 -e 1.2 -c 16 $small --bitmap=none --size=512
devices=$d
pattern fill up6 $md
mdadm $md --add "$(nth 5)"
echo raid6 > "$(sys)/level"
reshaped up6 384 2 layout 5 raid_disks
sleep 3
cat /proc/mdstat
frozen up6

members old5 5 704
d=$devices
devices="$(nth 1) $(nth 2) $(nth 3) $(nth 4)"
create old5 -l 5 -n 4 -e 0.90 -c 16 --bitmap=none --size=512
devices=$d
pattern fill old5 $md
mdadm $md --add "$(nth 5)"
reshaped old5 384 5 raid_disks
limited 384
frozen old5

members less5 5 704
create less5 -l 5 -n 5 -e 0.90 -c 16 --bitmap=none --size=512
mdadm --grow $md --array-size=1536
pattern fill less5 $md
reshaped less5 384 4 raid_disks
sleep 3
frozen less5

# what this guest (Linux 6.1) reads half way is not what was written, nor is it when assembled again
members grow10 5 1024
d=$devices
devices="$(nth 1) $(nth 2) $(nth 3) $(nth 4)"
create grow10 -l 10 -n 4 -e 1.2 -c 16 --data-offset=256 --bitmap=none --size=512
devices=$d
pattern fill grow10 $md
mdadm $md --add "$(nth 5)"
halt 768
for device in $devices; do
    echo 256 > "$(sys)/dev-$(basename $device)/new_offset"
done
reshaped grow10 768 5 raid_disks
sleep 4
cat /proc/mdstat "$(sys)/reshape_position"
echo frozen > "$(sys)/sync_action"
mdadm --stop $md
mdadm --assemble --readonly $md $devices
truth grow10
keep grow10

end
