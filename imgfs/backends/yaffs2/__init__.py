"""YAFFS2 as a dump of pages with their spare areas, read by one scan of the tags.

Found by trial: there is no magic. Evidence asked for is an object header in the first page whose tags
agree with it, and tags that make sense on every page that is not erased.
"""

from __future__ import annotations

from imgfs.backends import Backend, Role
from imgfs.backends.yaffs2.files import open_yaffs2

BACKEND = Backend(
    name="yaffs2",
    title="YAFFS2",
    role=Role.FILES,
    rank=90,
    open=open_yaffs2,
    by_trial=True,
    supports="pages of 2 to 8 KiB with spare areas, both byte orders, deleted files",
    truth=("tsk", "corpus"),
)
