"""``imgfs mounts``."""

from __future__ import annotations

import json
import time

import click

from imgfs import runtime
from imgfs.daemon import crash
from imgfs.daemon.ask import ask

_HELP = """List what is mounted, by whom, since when, and whether it is alive.

\b
alive  its daemon answers
dead   its daemon is gone; imgfs umount clears it
gone   its daemon crashed and somebody unmounted what was left; imgfs umount forgets it
other  of another user, or started with another runtime directory: not looked at
"""


@click.command(help=_HELP, short_help="List what is mounted, alive or dead.")
@click.option("--json", "as_json", is_flag=True, help="Machine readable.")
def mounts(*, as_json: bool) -> None:
    """List mounts; the help text is above."""
    rows = survey()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        click.echo("nothing is mounted")
        return
    width = max(len(str(row["mountpoint"])) for row in rows)
    for row in rows:
        words = [f"{row['state']:5}", f"{row['mountpoint']:{width}}", row["images"], row["user"]]
        if row["since"]:
            when = time.localtime(float(str(row["since"])))
            words += [f"since {time.strftime('%Y-%m-%d %H:%M:%S', when)}", f"pid {row['pid']}"]
        click.echo("  ".join(map(str, words)))
        if row["last_words"]:
            click.echo(f"       {crash.headline(str(row['last_words']))}")


def survey() -> list[dict[str, object]]:
    """Return every imgfs mount of this machine that can be seen, and records whose mount is gone.

    A mount is alive when its daemon answers on the control socket; the mount itself is not touched.
    """
    left = {m.mountpoint: m for m in runtime.mounted() if m.kind == "fuse.imgfs"}
    rows: list[dict[str, object]] = []
    for path, record in runtime.records():
        here = left.pop(record.mountpoint, None)
        answer = ask(path.with_suffix(".sock"), "status", patience=2.0) if here else None
        state = "alive" if answer and answer.get("pid") == record.pid else "dead" if here else "gone"
        rows.append(
            {
                "state": state,
                "mountpoint": record.mountpoint,
                "images": " ".join(record.images),
                "user": record.user,
                "since": record.since,
                "pid": record.pid,
                "last_words": "" if state == "alive" else crash.last_words(path),
            }
        )
    rows += [
        {
            "state": "other",
            "mountpoint": m.mountpoint,
            "images": m.source,
            "user": f"uid {m.uid}",
            "since": 0,
            "pid": 0,
            "last_words": "",
        }
        for m in left.values()
    ]
    return rows
