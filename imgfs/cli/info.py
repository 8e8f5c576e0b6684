"""``imgfs info``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from imgfs.cli.options import image_path, overrule, overruling
from imgfs.cli.sessions import resolved, run

if TYPE_CHECKING:
    from rich.tree import Tree as RichTree

    from imgfs.opening.layers import Layer

_MARK = {"open": "green", "locked": "yellow", "unsupported": "yellow", "damaged": "red", "incomplete": "red"}


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "as_json", is_flag=True, help="Machine readable: what layers.json of a mount says.")
@overruling
def info(images: tuple[str, ...], *, as_json: bool, unsafe: bool, **overruled: Any) -> None:
    """Show the layers of IMAGES: container, table, volumes, file systems, and what is missing."""
    checked = overrule(**overruled)

    async def work() -> list[Layer]:
        paths = [image_path(image) for image in images]
        async with resolved(paths, checked, unsafe=unsafe) as session:
            await session.complete()
            return list(session.layers)

    layers = run(work)
    if as_json:
        click.echo(json.dumps({"layers": [asdict(layer) for layer in layers]}, indent=1))
        return
    show(layers)


def show(layers: list[Layer]) -> None:
    """Print layers as a tree, one disk after the other."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    console = Console(highlight=False)
    trees: dict[str, RichTree] = {}
    for layer in sorted(layers, key=_place):
        parent = trees.get(_parent(layer.spec, trees))
        text = Text.assemble(*_words(layer))
        node = parent.add(text) if parent is not None else Tree(text)
        if parent is None:
            trees[f"\0{layer.spec}"] = node
        trees[layer.spec] = node
        for line in _remarks(layer):
            node.add(Text(line, style="dim"))
    for key, tree in trees.items():
        if key.startswith("\0"):
            console.print(tree)


_KINDS = ("container", "table", "volume", "files")


def _place(layer: Layer) -> tuple[str, int, int, int]:
    """Return the sort key: outer layers first, a table before its volumes, volumes as they lie."""
    return layer.spec.split("|")[0], layer.spec.count("|"), _KINDS.index(layer.kind), layer.start


def _parent(spec: str, known: dict[str, Any]) -> str:
    while "|" in spec:
        head, _, last = spec.rpartition("|")
        table = f"{head}|{last.partition(':')[0]}"
        if table != spec and table in known:
            return table
        if head in known:
            return head
        spec = head
    return ""


def _words(layer: Layer) -> list[tuple[str, str] | str]:
    style = _MARK.get(layer.state, "")
    name = layer.path.rpartition("/")[2] if layer.kind == "volume" else layer.title or layer.backend
    words: list[tuple[str, str] | str] = [(name, "bold")]
    if layer.kind == "container":
        words = [(layer.path, "bold"), f"  {name}"]
    words += [f"  {layer.type}"] if layer.type else []
    words += [f" {layer.version}"] if layer.version else []
    if layer.size >= 0:
        words.append(f"  {human(layer.size)}")
    if layer.start >= 0:
        words.append(f"  at {layer.start}")
    words += [f"  {layer.label!r}"] if layer.label else []
    words += [f"  {layer.uuid}"] if layer.uuid else []
    words += [("  " + layer.state, style)] if layer.state != "open" else []
    return words


def _remarks(layer: Layer) -> list[str]:
    lines = [f"needs: {layer.needs}"] if layer.needs else []
    lines += layer.notes
    lines += [f"lost: [{start}, {stop}) {why}" for start, stop, why in layer.lost]
    lines += [f"{name}: {value}" for name, value in layer.metadata.items()]
    lines += [f"stored {name}: {value}" for name, value in layer.digests.items()]
    if len(layer.members) > 1:
        lines.append(f"{len(layer.members)} segments: {layer.members[0]} ... {layer.members[-1]}")
    return [line if line.isprintable() else repr(line) for line in lines]


def human(size: int) -> str:
    """Return bytes in the unit people read."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
