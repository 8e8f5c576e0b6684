"""Layers as the outline a person reads: a tree, volumes in columns, remarks below what they concern.

Lines are never wrapped: identifiers stay whole, for the eye as for grep. Colours are taken off by click
when the output is no terminal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgfs.opening.layers import Layer

_COLOURS: Final = {"locked": "yellow", "unsupported": "yellow", "damaged": "red", "incomplete": "red"}
_KINDS: Final = ("container", "table", "volume", "files")
_EVEN: Final = 1024


@dataclass(slots=True)
class _Twig:
    layer: Layer
    words: list[str]
    parent: Layer | None = None
    below: list[_Twig] = field(default_factory=list)


def outline(layers: Iterable[Layer]) -> Iterator[str]:
    """Yield the lines of all disks, one tree each."""
    for disk in _grown(layers):
        yield "  ".join(disk.words)
        yield from _branches(disk, "")


def _grown(layers: Iterable[Layer]) -> list[_Twig]:
    """Return the disks with everything below them."""
    roots: list[_Twig] = []
    known: dict[str, _Twig] = {}
    for layer in sorted(layers, key=_place):
        above = known.get(_parent(layer.spec, known))
        twig = _Twig(layer, _words(layer, above.layer if above else None), above.layer if above else None)
        (above.below if above else roots).append(twig)
        known[layer.spec] = twig
    return roots


def _place(layer: Layer) -> tuple[str, int, int, int]:
    """Return the sort key: outer layers first, a table before its volumes, volumes as they lie."""
    return layer.spec.split("|")[0], layer.spec.count("|"), _KINDS.index(layer.kind), layer.start


def _parent(spec: str, known: dict[str, _Twig]) -> str:
    while "|" in spec:
        head, _, last = spec.rpartition("|")
        table = f"{head}|{last.partition(':')[0]}"
        if table != spec and table in known:
            return table
        if head in known:
            return head
        spec = head
    return ""


def _branches(twig: _Twig, indent: str) -> Iterator[str]:
    rest = bool(twig.below)
    facts = _facts(twig.layer)
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        line = f"{name:{width}}  {value}" if name else value
        yield indent + ("│   " if rest else "    ") + click.style(_escaped(line), dim=True)
    widths = _widths([t.words for t in twig.below if t.layer.kind == "volume"])
    for number, child in enumerate(twig.below, 1):
        last = number == len(twig.below)
        words = child.words
        if child.layer.kind == "volume":
            words = [f"{w}{' ' * (widths[i] - len(click.unstyle(w)))}" for i, w in enumerate(words)]
        yield f"{indent}{'└── ' if last else '├── '}{'  '.join(words)}".rstrip()
        yield from _branches(child, indent + ("    " if last else "│   "))


def _widths(rows: list[list[str]]) -> list[int]:
    columns = max((len(row) for row in rows), default=0)
    return [max(len(click.unstyle(row[i])) for row in rows if i < len(row)) for i in range(columns)]


def _words(layer: Layer, above: Layer | None) -> list[str]:
    """Return the columns of a layer's line."""
    state = [_state(layer)] if layer.state != "open" else []
    label = _escaped(f'"{layer.label}"') if layer.label else ""
    if layer.kind == "volume":
        name = layer.path.rpartition("/")[2]
        sector = above.sector if above else 0
        told = label if layer.label and layer.label not in name else ""
        return [
            click.style(_escaped(name), bold=True),
            _escaped(layer.type),
            f"{human(layer.size):>9}{_at(layer.start, sector)}",
            layer.uuid,
            *([told] if told else []),
            *state,
        ]
    if layer.kind == "container":
        kind = _escaped(" ".join(filter(None, (layer.title or layer.backend, layer.version))))
        size = [human(layer.size)] if layer.size >= 0 else []
        return [click.style(_escaped(layer.path), bold=True), ", ".join([kind, *size]), *state]
    kind = " ".join(filter(None, (layer.type or layer.title or layer.backend, layer.version)))
    if layer.kind == "table":
        kind = " ".join(filter(None, (layer.title or layer.type, layer.version)))
    as_above = above is not None and human(layer.size) == human(above.size)
    size = [human(layer.size)] if layer.size >= 0 and not as_above else []
    repeated = above is not None and above.kind == "volume" and layer.label == above.label
    return [
        click.style(_escaped(kind), bold=layer.kind == "files" or None),
        *size,
        *([label] if label and not repeated else []),
        *([_escaped(layer.uuid)] if layer.uuid else []),
        *state,
    ]


def _state(layer: Layer) -> str:
    """Return what is wrong with a layer, and what it would need."""
    needs = layer.needs.removeprefix(f"{layer.title}: ")
    return click.style(
        _escaped(f"{layer.state}: {needs}" if needs else layer.state), fg=_COLOURS.get(layer.state)
    )


def _at(start: int, sector: int) -> str:
    """Return where a volume starts, exactly too, which the rounded number does not say; nothing for a map."""
    if start < 0:
        return ""
    unit = sector or 512
    exact = f"sector {start // unit}" if start % unit == 0 else f"byte {start}"
    return f" at {human(start):>9} ({exact})"


def _facts(layer: Layer) -> list[tuple[str, str]]:
    """Return what is known of a layer beside its line, as (name, value)."""
    facts = [("lost", f"bytes [{start}, {stop}): {why}") for start, stop, why in layer.lost]
    said = {why for _, _, why in layer.lost}
    facts += [(f"key slot {slot}", _protector(*rest)) for slot, *rest in layer.protectors]
    facts += [("note", note) for note in layer.notes if note not in said]
    facts += [(name.replace("_", " "), value) for name, value in layer.metadata.items()]
    facts += [(f"stored {name}", value) for name, value in layer.digests.items()]
    if len(layer.members) > 1:
        facts.append((f"{len(layer.members)} files", f"{layer.members[0]} ... {layer.members[-1]}"))
    return facts


def _protector(kind: str, name: str, cost: str) -> str:
    return ", ".join(filter(None, (kind.replace("|", " or "), name, cost)))


def _escaped(text: str) -> str:
    """Return text out of an image so that it stays on its line and sends the terminal nothing."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def human(size: int) -> str:
    """Return bytes in the unit people read."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < _EVEN or unit == "PiB":
            break
        value /= _EVEN
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
