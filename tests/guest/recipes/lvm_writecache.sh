# A cache of writes alone, some of which have not reached the origin.
# disk: slow 32M
# disk: fast 16M
. /recipe/lvm.shlib
modprobe dm-writecache
vg many slow fast
new many held -l 32 /dev/guest/slow
lvcreate -qq -y -Wn -Zn -l 16 -n quick many /dev/guest/fast
lvchange -qq -an many/quick
lvconvert -qq -y --type writecache --cachevol quick --cachesettings 'high_watermark=90 low_watermark=80 autocommit_blocks=64' many/held
pattern fill heldx /dev/many/held 1000000 1500000
sync
pattern fill heldy /dev/many/held 1200000 300000
truth many
