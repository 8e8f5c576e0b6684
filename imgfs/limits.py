"""Every policy number of imgfs, each with where it comes from. Units are bytes and seconds."""

from __future__ import annotations

from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# --- what the kernel and the binding can carry -------------------------------------------------
MAX_SIZE: Final = (1 << 63) - 1  # loff_t; a larger size ends a compiled FUSE handler in OverflowError
MAX_NAME: Final = 1024  # FUSE_NAME_MAX of the kernel
MAX_LINK: Final = 4096  # PATH_MAX: a longer link target cannot be followed
MAX_XATTRS: Final = 64 * KIB  # XATTR_LIST_MAX and XATTR_SIZE_MAX

# --- opening ------------------------------------------------------------------------------------
MAX_DEPTH: Final = 16  # layers and nested images under one host file; stops image bombs
MAX_MOUNTS: Final = 1000  # rows of an installed system's table of them
MAX_VOLUMES: Final = 4096  # volumes per media; the rest becomes one named remainder volume
MAX_SLOTS: Final = 16_384  # slots of one table a worker may report: GPT tables of 2 MiB
MAX_SEGMENTS: Final = 20_000  # host files of one set: E01..ZZZ counts 14,971
MAX_WANTS: Final = 512  # host files an image may name, as VMDK does: half of the usual 1,024 descriptors
MAX_STATES: Final = 1024  # snapshots of one container that become directories; the rest is counted
WINDOW: Final = 72 * KIB  # head of a source that signatures may look at (btrfs: 64 KiB + 64)
FAR: Final = (1 * MIB, 2 * MIB)  # where a signature may begin besides: VMFS
FAR_BYTES: Final = 16
WINDOW_TAIL: Final = 128 * KIB  # its tail: md 0.90 lies in the last whole block of 64 KiB but one

# --- block layer --------------------------------------------------------------------------------
CACHE_BYTES: Final = 256 * MIB  # decoded units
STRIPS_SHARE: Final = 4  # a quarter of it for what sequential readers decode ahead: four windows of them
CACHE_LARGEST_SHARE: Final = 8  # a unit above capacity / 8 is returned and not kept
MAX_UNIT: Final = 128 * MIB  # decoded size of one unit; EWF allows 128 MiB chunks in theory
MAX_RUNS: Final = 4_000_000  # runs of one layout: a 16 TiB file in 4 MiB pieces
INLINE_MAX: Final = 1 * MIB  # content stored in metadata; NTFS resident < 4 KiB, ext < 64 KiB
READAHEAD_MAX: Final = 8 * MIB  # decoded ahead per handle
BLOCKING_READS: Final = 8  # pool threads that may wait for a disk
BATCH_BYTES: Final = 1 * MIB  # stored bytes read and decoded per trip to the pool
FOREIGN_UNIT: Final = 256 * KIB  # what one `read` of a worker brings for bytes only it can produce
LAYOUT_CACHE_BYTES: Final = 64 * MIB
DIRCACHE_BYTES: Final = 192 * MIB  # about 200,000 entries
CHECK_HOST_EVERY: Final = 1.0  # seconds between two comparisons of a host file's identity

# --- workers ------------------------------------------------------------------------------------
MESSAGE_MAX: Final = 16 * MIB  # one framed message
TABLE_MAX: Final = 1 * GIB  # sparse memory file for unit tables: 4 bytes a unit, 8 TiB of EWF
TABLE_INLINE: Final = 8 * MIB  # larger unit tables travel through the memory file
WORKER_MEMORY: Final = 1 * GIB  # RLIMIT_AS; libguestfs uses the same for qemu-img
LIVE_WORKERS: Final = 32
PAGE_ENTRIES: Final = 1024
PAGE_SECONDS: Final = 0.5  # a worker ends a page early after this much work
READ_MAX: Final = 1 * MIB  # bytes of one `read`
# Deriving a key: memory is what the header claims (argon2 as cryptsetup sets it up wants 1 GiB), so a hostile
# one may not have more than this, nor more than half of what is free; time covers a slow machine.
DERIVE_MEMORY: Final = 4 * GIB
RESOLVE_PATIENCE: Final = 15.0  # seconds a directory waits for what is being opened; the rest appears later
# What only a key tells from noise is tried with all that may fit: a directory may wait so long for it ...
PATIENCE: Final = 12.0
PATIENCE_ASKED: Final = 144.0  # ... and so long if it was asked for by name: within the deadline of unlock
MAX_PROTECTORS: Final = 64  # LUKS2 has 32 slots, FileVault and BitLocker a handful
MAX_KEYFILE: Final = 8 * MIB  # as cryptsetup
DEADLINE: Final = {
    "unlock": 180.0,
    "open": 30.0,
    "list": 2.0,
    "stat": 2.0,
    "layout": 10.0,
    "link": 2.0,
    "xattrs": 2.0,
    "read": 5.0,
    "decode": 10.0,
    "index": 30.0,
}
POISONS: Final = 5  # distinct culprits ...
POISON_WINDOW: Final = 600.0  # ... within this many seconds quarantine a file system
IDLE_WORKER: Final = 600.0
BACK_OFF_FIRST: Final = 0.1
BACK_OFF_MAX: Final = 10.0
SLOTS: Final = 3  # jobs one decoder has at hand: one being decoded, two being filled or copied out
SLOT_STORED: Final = 4 * MIB  # a strip and its coded bytes fit twice; untouched memory is not allocated
SLOT_DECODED: Final = 4 * MIB
SLOT_BYTES: Final = SLOT_STORED + SLOT_DECODED
IDLE_DECODER: Final = 60.0
SOURCE_READ_MAX: Final = 1 * MIB  # bytes of one read a worker may ask of its source

# --- indexes of compressed files ------------------------------------------------------------------
MAX_PARTS: Final = 65_536  # of an index that are made side by side: 16 MiB each of 1 TiB
INDEX_SLICE: Final = 8 * MIB  # bytes of an index that one step may give: half a message
INDEX_AHEAD: Final = 64 * MIB  # of parts that wait for the ones before them; their rows are a few hundred KiB
INDEX_IN_MEMORY: Final = 1 * GIB  # an index that cannot be stored is kept in memory, up to here
INDEX_CACHE: Final = 256 * GIB  # all indexes in the user's cache directory; the oldest give way
INDEX_FREE_SHARE: Final = 10  # the part of its file system that must stay free: a tenth ...
INDEX_FREE: Final = 10 * GIB  # ... of large ones so much

# --- mount ----------------------------------------------------------------------------------------
READ_AHEAD_KIB: Final = 1024  # the largest request FUSE carries: 256 pages
TTL_FOREVER: Final = 30 * 86_400.0  # below a subvolume nothing changes
TTL_LATE: Final = 1.0  # above it volumes appear late
EVENTS_KEPT: Final = 10_000
EVENTS_PER_SECOND: Final = 10  # per spec and event; what is beyond is counted
