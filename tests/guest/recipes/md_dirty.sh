# Arrays of md that nobody shut down: what lies on the members while the array is being written.
# memory: 1536
. /recipe/arrays.shlib
small="--data-offset=64"
# brings the members as they are now, and then stops the array
pulled() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
    i=0
    for device in $devices; do
        cp "/tmp/m/$1.$i" "/out/$1.$i"
        mdadm --examine $device > "/out/$1.$i.examine" 2>&1 || true
        mdadm --examine-bitmap $device > "/out/$1.$i.bitmap" 2>&1 || true
        i=$((i + 1))
    done
    truth "$1"
    mdadm --stop $md
    for device in $devices; do losetup -d $device; done
}
sys() { echo "/sys/block/${md#/dev/}/md"; }

for name in dirty5 dirty6 dirty10 dirty09; do
    case $name in
        dirty5) members $name 4 448; create $name -l 5 -n 4 -e 1.2 -c 4 $small --size=256 --bitmap=internal --bitmap-chunk=16K ;;
        dirty6) members $name 5 448; create $name -l 6 -n 5 -e 1.0 -c 4 --size=256 --bitmap=internal --bitmap-chunk=8K ;;
        dirty09) members $name 3 448; create $name -l 5 -n 3 -e 0.90 -c 4 --size=256 --bitmap=internal --bitmap-chunk=8K ;;
        dirty10) members $name 4 448; create $name -l 10 -n 4 -e 1.1 -c 4 $small --size=256 --bitmap=internal --bitmap-chunk=16K ;;
    esac
    pattern fill $name $md
    sync
    # the bits of what was written go after a while
    for tries in $(seq 60); do
        mdadm --examine-bitmap "$(echo $devices | cut -d' ' -f1)" | grep -q " 0 dirty" && break
        sleep 1
    done
    echo 1000 > "$(sys)/safe_mode_delay"
    pattern fill $name $md 65536 40960
    pulled $name
done

# one without a bitmap
members dirty4 3 320
create dirty4 -l 4 -n 3 -e 1.2 -c 4 $small --bitmap=none
pattern fill dirty4 $md
echo 1000 > "$(sys)/safe_mode_delay"
pattern fill dirty4 $md 65536 40960
pulled dirty4
end
