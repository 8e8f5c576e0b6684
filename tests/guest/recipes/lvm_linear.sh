# Linear and striped volumes over three physical volumes, in several segments.
# disk: a 24M
# disk: b 24M
# disk: c 24M
. /recipe/lvm.shlib
vg many a b c
new many one -l 12
new many gone -l 4
new many stripes -l 24 -i 3 -I 16K
new many two -l 8 -i 2 -I 64K /dev/guest/a /dev/guest/b
lvremove -qq -y many/gone
lvextend -qq many/one -l 40 /dev/guest/b
lvextend -qq many/one -l 60 /dev/guest/a
lvextend -qq many/one -l 70 /dev/guest/c
pattern fill one /dev/many/one
lvextend -qq many/two -l 20 -i 2 -I 32K /dev/guest/b /dev/guest/c
pattern fill two /dev/many/two
truth many
