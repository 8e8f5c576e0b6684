"""What the command line hands to a daemon: one JSON object through a pipe, nothing through argv."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from imgfs.opening.keys import Key
from imgfs.opening.place import Overrule
from imgfs.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One mount, as asked for. ``uid`` and ``gid`` are of the mount's own folders, -1: the caller's."""

    images: tuple[str, ...]
    mountpoint: str
    settings: Settings = Settings()
    allow_other: bool = False
    fsname: str = ""
    uid: int = -1
    gid: int = -1
    log: str = ""

    def dump(self) -> bytes:
        """Return the configuration as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, data: bytes) -> Config:
        """Read what ``dump`` wrote."""
        row = json.loads(data)
        overrule = row["settings"].pop("overrule")
        keys = tuple(Key(**key) for key in overrule.pop("keys"))
        look_in = tuple(overrule.pop("look_in"))
        settings = Settings(overrule=Overrule(**overrule, keys=keys, look_in=look_in), **row.pop("settings"))
        row["images"] = tuple(row["images"])
        return cls(settings=settings, **{f.name: row[f.name] for f in fields(cls) if f.name in row})

    def paths(self) -> list[Path]:
        """Return the images as absolute paths."""
        return [Path(image) for image in self.images]
