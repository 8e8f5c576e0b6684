"""Units that are arranged and not compressed: sectors with a frame around their data, a word repeated.

Nothing of them is parsed: bytes are cut and put one behind the other. See ``codecs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.block.inflating import Parameters, held
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.block.pieces import Block


def sectors(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Cut the data out of sectors that lie one behind the other.

    Parameters, in bytes: ``stride`` from one sector to the next, ``skip`` ahead of the data, ``data`` of a
    sector.

    Raises:
        BadUnit: the sectors hold less than ``length`` bytes, or the parameters are of no sector.
    """
    stride, skip, data = parameters.get("stride"), parameters.get("skip"), parameters.get("data")
    if not (isinstance(stride, int) and isinstance(skip, int) and isinstance(data, int)):
        raise BadUnit("sectors of no size")
    if not 0 < data <= stride or not 0 <= skip <= stride - data:
        raise BadUnit(f"{data} bytes at {skip} of sectors of {stride}")
    count = -(-length // data)
    if (count - 1) * stride + skip + length - (count - 1) * data > len(stored):
        raise BadUnit(held(len(stored) // stride * data, length))
    cut = b"".join([stored[at : at + data] for at in range(skip, skip + count * stride, stride)])
    return cut if len(cut) == length else cut[:length]


def repeat(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Repeat the stored bytes until the unit is full.

    Raises:
        BadUnit: there are none.
    """
    if not stored:
        raise BadUnit(held(0, length))
    return (bytes(stored) * -(-length // len(stored)))[:length]
