#!/bin/busybox sh
# The first process of the guest: brings up what recipes need, runs one, hands the results over, powers off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/bb HOME=/ LC_ALL=C
export DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1 LVM_SUPPRESS_FD_WARNINGS=1 PYTHONDONTWRITEBYTECODE=1
/bin/busybox mkdir -p /bb
/bin/busybox --install -s /bb
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t tmpfs none /run
hostname guest
mkdir -p /run/lock/lvm /run/mdadm /run/cryptsetup /dev/guest /etc/lvm
[ -e /bin/sh ] || ln -s /bb/sh /bin/sh
[ -e /bin/bash ] || ln -s /bb/sh /bin/bash
[ -e /usr/bin/python3 ] || ln -s python3.11 /usr/bin/python3
[ -e /etc/mtab ] || ln -s /proc/mounts /etc/mtab
echo root:x:0:0::/:/bin/sh > /etc/passwd
cat > /etc/lvm/lvmlocal.conf << 'CONF'
activation { udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0 }
devices { obtain_device_list_from_udev=0 external_device_info_source="none" dir="/dev" scan=["/dev"] use_devicesfile=0 }
CONF
for module in virtio_pci virtio_blk loop md_mod linear raid0 raid1 raid10 raid456 dm_mod; do
    modprobe "$module" || echo "no module $module"
done
for tries in 1 2 3 4 5 6 7 8 9 10; do
    [ -e /dev/vdb ] && break
    sleep 0.1
done
for disk in /sys/block/vd*; do
    ln -s "/dev/${disk##*/}" "/dev/guest/$(cat "$disk/serial")"
done
cd /recipe && tar xf /dev/guest/.in
cd /
sh -eu /recipe/recipe.sh 2>&1
echo $? > /out/status
sync
cd /out && tar cf /dev/guest/.out .
sync
poweroff -f
