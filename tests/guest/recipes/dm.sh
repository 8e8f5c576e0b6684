# Every target that `imgfs map` reads, made by dmsetup from a table; the table is what the test gives to imgfs.
# disk: a 24M
# disk: b 24M
cat > /out/table << 'TABLE'
# name: start length target arguments
line: 0 1000 linear b.img 64
line: 1000 24 zero
line: 1024 3000 linear a.img 2048
dealt: 0 4096 striped 2 16 a.img 8192 b.img 8192
sealed: 0 16 crypt aes-xts-plain64 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f 7 a.img 12288
large: 0 16 crypt aes-cbc-essiv:sha256 000102030405060708090a0b0c0d0e0f 0 b.img 12288 2 sector_size:4096 iv_large_sectors
base: 0 2048 linear a.img 16384
cow: 0 2048 linear b.img 16384
old: 0 2048 snapshot /dev/mapper/base /dev/mapper/cow P 16
tmeta: 0 4096 linear a.img 20480
tdata: 0 16384 linear b.img 20480
pool: 0 16384 thin-pool /dev/mapper/tmeta /dev/mapper/tdata 128 0 1 skip_block_zeroing
thin: 0 8192 thin /dev/mapper/pool 1
m0: 0 32 linear a.img 26624
m1: 0 32 linear b.img 40960
m2: 0 32 linear a.img 28672
m3: 0 32 linear b.img 43008
five: 0 96 raid raid5_ls 1 8 4 - /dev/mapper/m0 - /dev/mapper/m1 - /dev/mapper/m2 - /dev/mapper/m3
n0: 0 32 linear a.img 30720
n1: 0 32 linear b.img 45056
n2: 0 32 linear a.img 32768
n3: 0 32 linear b.img 47104
six: 0 64 raid raid6_zr 1 8 4 - /dev/mapper/n0 - /dev/mapper/n1 - /dev/mapper/n2 - /dev/mapper/n3
both: 0 1024 linear /dev/mapper/dealt 1024
both: 1024 1024 linear /dev/mapper/old 0
TABLE
make() { # NAME: with the disks as this kernel calls them
    sed -n "s/^$1: //p" /out/table | sed 's:\b\([ab]\)\.img:/dev/guest/\1:g' > /tmp/one
    dmsetup create "$1" /tmp/one
    dmsetup mknodes "$1"
}
for name in line dealt sealed large base cow; do
    make $name
    [ $name = cow ] || pattern fill $name /dev/mapper/$name
done
make old
pattern fill old /dev/mapper/old 100000 300000
make tmeta
make tdata
make pool
dmsetup message /dev/mapper/pool 0 "create_thin 1"
make thin
pattern fill thin /dev/mapper/thin 65536 700000
pattern fill thin /dev/mapper/thin 3000000 100000
for name in m0 m1 m2 m3 five n0 n1 n2 n3 six; do make $name; done
for name in five six; do
    for try in $(seq 100); do dmsetup status $name | grep -q ' idle ' && break; sleep 0.1; done
    pattern fill $name /dev/mapper/$name
done
make both
sync
for name in line dealt sealed large old thin five six both; do pattern digest /dev/mapper/$name; done | sed 's:/dev/mapper/::' > /out/truth
dmsetup table --showkeys > /out/as_printed
dmsetup remove_all
sync
