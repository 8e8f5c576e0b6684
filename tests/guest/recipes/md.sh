# Every level, layout and version of md without parity that moves: see md_five.sh and md_six.sh for that.
# memory: 1536
. /recipe/arrays.shlib
small="--data-offset=64"

echo 2 > /sys/module/raid0/parameters/default_layout
array linear09 3 320,448,256 -l linear -n 3 -e 0.90
array linear12 3 320,448,256 -l linear -n 3 -e 1.2 $small

# mdadm makes no striped array of version 0.90 any more: one is made of a linear array
members stripe09 3 384,512,448
create stripe09 -l linear -n 3 -e 0.90 -c 64
mdadm --stop $md
python3 -S - $devices << 'CODE'
import os, struct, sys
for path in sys.argv[1:]:
    with open(path, "r+b") as file:
        at = (file.seek(0, 2) // 65536 - 1) * 65536
        file.seek(at)
        words = list(struct.unpack("<1024I", file.read(4096)))
        words[7] = 0  # the level
        words[38] = 0
        total = sum(words)
        words[38] = (total + (total >> 32)) & 0xFFFFFFFF
        file.seek(at)
        file.write(struct.pack("<1024I", *words))
        os.fsync(file.fileno())
CODE
mdadm --assemble $md $devices
cat /proc/mdstat
fill stripe09
keep stripe09

array stripe10 2 320 -l 0 -n 2 -e 1.0 -c 16
array zones1 4 260,512,404,512 -l 0 -n 4 -e 1.2 -c 4 --layout=original $small
array zones2 4 260,512,404,512 -l 0 -n 4 -e 1.2 -c 4 --layout=alternate $small
array zones0 4 260,512,404,512 -l 0 -n 4 -e 1.1 -c 4 --layout=dangerous $small

array mirror09 2 320 -l 1 -n 2 -e 0.90
array mirror10 2 320 -l 1 -n 2 -e 1.0 --bitmap=none
array mirror11 2 320,400 -l 1 -n 2 -e 1.1 $small --bitmap=internal
array mirror12 3 320 -l 1 -n 3 -e 1.2 $small

array four09 3 320 -l 4 -n 3 -e 0.90 -c 4
array four12 4 320 -l 4 -n 4 -e 1.2 -c 4 $small

for layout in n2 f2 o2; do
    array ten${layout}x3 3 320 -l 10 -n 3 -e 1.2 -c 4 $small --layout=$layout
    array ten${layout}x4 4 320 -l 10 -n 4 -e 1.2 -c 4 $small --layout=$layout
done
for layout in n3 f3 o3; do
    array ten${layout}x5 5 320 -l 10 -n 5 -e 1.2 -c 4 $small --layout=$layout
done
array ten09 4 320 -l 10 -n 4 -e 0.90 -c 4
end
