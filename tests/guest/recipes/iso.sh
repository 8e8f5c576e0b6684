# What the kernel's isofs reads of each tree of discs that tests/backends/isoimages.py made, beside the recipe.
# disk: moved 2M image=moved.iso
# disk: deep 2M image=deep.iso
# disk: zisofs 2M image=zisofs.iso
# disk: zisofs128 2M image=zisofs128.iso
modprobe isofs
tell() { # disk, tree, mount options
    mount -t iso9660 -o "ro,$3" "/dev/guest/$1" /mnt
    python3 -S /recipe/files.shlib tell /mnt > "/out/$1-$2.truth"
    umount /mnt
}
for disk in moved deep; do
    tell $disk root nojoliet
    tell $disk joliet norock,utf8
    tell $disk iso9660 norock,nojoliet,map=off
done
tell zisofs root nojoliet
tell zisofs iso9660 norock,nojoliet,map=off
tell zisofs128 root nojoliet
