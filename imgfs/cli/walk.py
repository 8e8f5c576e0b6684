"""``imgfs ls``, ``tree``, ``stat`` and ``cat``: IMAGE:PATH without a mount."""

from __future__ import annotations

import os
import re
import stat as modes
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from imgfs import limits
from imgfs.cli.options import overrule, overruling, split_path
from imgfs.cli.sessions import patience, resolved, run
from imgfs.errors import EvidenceError, IsADirectory, NeedKey, NotADirectory, NotFound, NotSupported
from imgfs.model import Attr, Kind
from imgfs.opening.system import SYSTEMS
from imgfs.tree.facts import iso
from imgfs.tree.names import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from imgfs.session import Session
    from imgfs.tree.nodes import Child, Node

_HINT: Final = 12  # names of a directory that are told instead of one that is not there
_REFUSED: Final = {"unsupported": NotSupported, "locked": NeedKey, "damaged": EvidenceError}
_PATH = click.argument("where", metavar="IMAGE[:PATH]")


def _at(where: str, overruled: dict[str, Any], work: Callable[[Session, Node], Awaitable[None]]) -> None:
    image, path = split_path(where)
    unsafe = overruled.pop("unsafe")
    checked = overrule(**overruled)

    async def body() -> None:
        async with resolved([image], checked, unsafe=unsafe) as session:
            async with patience(f"opening {image.name}"):
                node = await _find(session, image, path)
            await work(session, node)

    run(body)


async def _find(session: Session, image: Path, path: tuple[bytes, ...]) -> Node:
    """Return the node at a path below an image.

    Raises:
        NotFound, NotADirectory: with how far the path leads, and what there is instead.
        NotSupported, NeedKey, EvidenceError: it leads into a layer that could not be opened.
    """
    node = await session.find((os.fsencode(image.name),))
    if path[:1] == (SYSTEMS.encode(),):  # beside the disks
        node = session.tree.root
    for depth, name in enumerate(path):
        far = f"{image.name}:{printable(b'/'.join(path[: depth + 1]))}"
        try:
            node = await node.find(name)
        except NotFound:
            _refused(session, b"/".join((os.fsencode(image.name), *path[:depth])))
            raise NotFound(f"{far}: no such file or directory{await _instead(node)}") from None
        except NotADirectory:
            raise NotADirectory(f"{far.rpartition('/')[0]} is not a directory") from None
    return node


def _refused(session: Session, path: bytes) -> None:
    """Say why a layer was not opened: nothing below it can be found.

    Raises:
        NotSupported, NeedKey, EvidenceError: as its state is.
    """
    for layer in session.layers:
        if os.fsencode(layer.path) == path and layer.state in _REFUSED:
            why = layer.needs or "; ".join(layer.notes) or layer.title
            raise _REFUSED[layer.state](f"{layer.path}: {why}")


async def _instead(node: Node) -> str:
    """Return what a directory holds, when that is little enough to be a hint."""
    names = []
    async for child in rows(node):
        names.append(printable(child.name))
        if len(names) > _HINT:
            return ""
    return f" (there is {', '.join(names)})" if names else ""


async def rows(node: Node) -> AsyncIterator[Child]:
    """Yield the entries of a directory."""
    index = 0
    while True:
        child = node.row(index)
        if child is not None:
            index += 1
            yield child
        elif not await node.more(index):
            return


def _mode(attr: Attr) -> str:
    return modes.filemode(attr.kind << 12 | attr.mode & 0o7777)


def _line(name: str, attr: Attr) -> str:
    when = iso(attr.m_ns)[:19].replace("T", " ") if attr.m_ns is not None else "-"
    mark = " (deleted)" if attr.deleted else ""
    damage = f"  [{attr.damaged}]" if attr.damaged else ""
    return f"{_mode(attr)} {attr.uid:>5} {attr.gid:>5} {attr.size:>14,} {when:19} {name}{mark}{damage}"


@click.command(short_help="List a directory of an image.")
@_PATH
@click.option("-l", "long", is_flag=True, help="With mode, owner, size and time.")
@overruling
def ls(where: str, *, long: bool, **overruled: Any) -> None:
    """List a directory of the image; without PATH, its volumes."""

    async def work(_session: Session, node: Node) -> None:
        attr = await node.attr()
        if attr.kind is not Kind.DIR:
            name = re.split("[:/]", where)[-1]
            click.echo(_line(name, attr) if long else name)
            return
        async for child in rows(node):
            click.echo(_line(printable(child.name), child.attr) if long else printable(child.name))

    _at(where, overruled, work)


@click.command(short_help="Show a directory and what is below it.")
@_PATH
@click.option("-L", "--depth", default=3, show_default=True, help="Levels to show.")
@overruling
def tree(where: str, *, depth: int, **overruled: Any) -> None:
    """Show the tree below PATH."""

    async def branch(node: Node, indent: str, left: int, session: Session) -> None:
        children = [child async for child in rows(node)]
        for number, child in enumerate(children):
            last = number == len(children) - 1
            size = f"  {child.attr.size:,}" if child.attr.kind is Kind.REG else ""
            click.echo(f"{indent}{'└── ' if last else '├── '}{printable(child.name)}{size}")
            if child.attr.kind is Kind.DIR and left > 1:
                await branch(
                    await node.find(child.name), indent + ("    " if last else "│   "), left - 1, session
                )

    async def work(session: Session, node: Node) -> None:
        if (await node.attr()).kind is not Kind.DIR:
            raise NotADirectory(f"{where} is not a directory; imgfs stat shows what is known of it")
        click.echo(where)
        await branch(node, "", depth, session)

    _at(where, overruled, work)


@click.command(short_help="Show everything known of a file.")
@_PATH
@overruling
def stat(where: str, **overruled: Any) -> None:
    """Show everything known of a file: attributes, times, address, extended attributes."""

    async def work(_session: Session, node: Node) -> None:
        attr = await node.attr()
        times = [
            ("modified", attr.m_ns),
            ("accessed", attr.a_ns),
            ("changed", attr.c_ns),
            ("born", attr.b_ns),
        ]
        facts = [
            ("mode", f"{_mode(attr)} ({attr.mode:04o})"),
            ("owner", f"{attr.uid}:{attr.gid}"),
            ("size", f"{attr.size:,} bytes, {attr.allocated:,} allocated"),
            ("inode", f"{attr.inum} (generation {attr.generation}), {attr.nlink} links"),
            *((name, iso(ns) if ns is not None else "not recorded") for name, ns in times),
        ]
        if attr.kind is Kind.LNK:
            facts.append(("target", printable(await node.link())))
        facts += [(printable(k), _value(v)) for k, v in sorted((await node.xattrs()).items())]
        width = max(len(name) for name, _ in facts)
        for name, value in facts:
            click.echo(f"{name:{width}}  {value}")

    _at(where, overruled, work)


def _value(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "0x" + value.hex()


@click.command(short_help="Write the bytes of a file to standard output.")
@_PATH
@overruling
def cat(where: str, **overruled: Any) -> None:
    """Write the bytes of a file, volume.raw or disk.raw to standard output."""

    async def work(session: Session, node: Node) -> None:
        if (await node.attr()).kind is Kind.DIR:
            raise IsADirectory(f"{where.rstrip(':')} is a directory; imgfs ls lists it")
        file = await session.open(node)
        sys.stdout.flush()
        # Unbuffered: what an interrupted write left in a buffer would be written again at the end, and
        # wait there for a reader that has stopped reading.
        for at in range(0, file.size, limits.BATCH_BYTES):
            left = memoryview(await file.read(at, limits.BATCH_BYTES))
            while left:
                left = left[os.write(sys.stdout.fileno(), left) :]

    _at(where, overruled, work)
