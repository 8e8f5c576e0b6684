"""A small Linux guest: what a kernel with md, device-mapper and more file systems makes of disks.

The kernel that runs the tests may know no md, no device-mapper, no XFS or HFS+. This package boots one that
does, out of Debian's packages, and lets it build images and say what it reads from them. No privilege is
needed, no mount, no loop device of the host:

    python -m tests.guest RECIPE.sh OUT          run a recipe, put its disks and results into the folder OUT
    python -m tests.guest -c 'COMMANDS' OUT      the same, with the recipe on the command line

Needed: apt-get and dpkg-deb of Debian or Ubuntu, and qemu-system-x86_64. The packages are fetched and
unpacked once (``$IMGFS_GUEST_CACHE``, else ``~/.cache/imgfs-guest``: 600 MB). The processor is emulated, a
guest starts and ends within fifteen seconds; ``IMGFS_GUEST_ACCEL=kvm`` asks for /dev/kvm, which within other
virtual machines may be there and hang. ``--seconds`` bounds its life.

A recipe is a shell script (busybox, ``set -eu``). Lines such as

    # disk: a 64M                    a sparse disk, /dev/guest/a in the guest, a.img in OUT afterwards
    # disk: b 64M sector=4096        the same with 4 KiB sectors
    # disk: c 64M image=FILE         a disk that starts as a copy of FILE, beside the recipe or absolute
    # use: d FILE                    an image beside the recipe (or absolute) that is never written to
    # with: FILE                     a file beside the recipe that it finds in /recipe under its last name
    # memory: 2048                   MiB of the guest, 1024 unless told

say what it works on. What it writes into /out comes back into OUT; ``log`` in OUT is the console. The folder
of the recipe may hold ``*.shlib``, which it can source from /recipe.

Tools inside: mdadm, lvm, dmsetup, thin_*, cache_*, cryptsetup, mkfs.* (ext, xfs, btrfs, vfat, exfat, udf),
python3, busybox. udev does not run; loop devices and tmpfs (/tmp) are there for many small disks.
Two tools are ours (``tests/guest/pattern.py``):

    pattern fill NAME PATH [START [LENGTH]]    write data that is a function of (NAME, offset), in bytes
    pattern digest PATH...                     print "sha256 size path" of a device's or file's whole content

so that a recording needs only the metadata of an image and the digests the guest read.
``tests.guest.pattern`` has the same functions for the tests; ``tests.guest.recording`` stores disks of such
data in a few KiB.
"""

from __future__ import annotations

from tests.guest.boot import Result, run

__all__ = ["Result", "run"]
