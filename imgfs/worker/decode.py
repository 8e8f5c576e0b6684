"""(In a decoder) units decoded from shared memory into shared memory, until the daemon is gone.

A decoder is a child of the template like a worker, under the same sandbox, and holds less: one socket and
one memory file. What it runs is the list of ``block.codecs``, away from the daemon's memory and lock.
"""

from __future__ import annotations

import importlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from imgfs import limits
from imgfs.block.codecs import DECODERS
from imgfs.block.unpacking import LIBRARIES
from imgfs.errors import EvidenceError
from imgfs.model import PACKED_CODED
from imgfs.worker import wire

if TYPE_CHECKING:
    import socket

_TEXT_MAX: Final = 100  # characters of a failure: all of a job fit into one message
_LARGEST: Final = 1 << 16  # bytes of a request: a thousand units in twenty bytes each


def prepare() -> None:
    """Import what codecs import when they are needed: nothing can be in the sandbox."""
    for name in LIBRARIES:
        with suppress(ImportError):  # the codec says that it is missing
            importlib.import_module(name)


def serve(control: socket.socket, memory: memoryview) -> NoReturn:
    """Decode what is asked for on ``control`` in shared memory; see ``wire.DecodeRequest``."""
    while data := control.recv(_LARGEST):
        control.send(wire.encode(_decoded(memory, wire.decode_decode_request(data))))
    os._exit(0)  # the daemon is gone


def _decoded(memory: memoryview, request: wire.DecodeRequest) -> wire.DecodeReply:
    base = request.slot * limits.SLOT_BYTES
    stored = memory[base : base + limits.SLOT_STORED]
    decoded = memory[base + limits.SLOT_STORED : base + limits.SLOT_BYTES]
    decoder, parameters = DECODERS[request.codec.name], request.codec.parameters
    failed: dict[int, str] = {}
    at = 0
    rows = zip(request.starts, request.stops, request.flags, request.lengths, strict=True)
    for index, (start, stop, flags, length) in enumerate(rows):
        try:
            if flags:
                decoded[at : at + length] = decoder(
                    stored[start:stop], flags == PACKED_CODED, length, parameters
                )
            else:
                decoded[at : at + length] = stored[start : start + length]
        except EvidenceError as why:
            failed[index] = why.message[:_TEXT_MAX]
        at += length
    return wire.DecodeReply(request.slot, failed)
