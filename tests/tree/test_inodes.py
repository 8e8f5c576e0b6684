from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgfs.tree.inodes import ALIAS, Address, Aliases, pack, unpack


@given(st.integers(1, 32767), st.integers(1, (1 << 48) - 1))
def test_a_number_is_the_address(fs: int, inum: int) -> None:
    ino = pack(Address(fs, 0, inum))
    assert ino is not None
    assert unpack(ino) == (fs, inum)
    assert not ino & ALIAS


SMALL = st.integers(0, 2)
ADDRESSES = st.builds(Address, st.integers(1, 3), SMALL, st.integers(0, 1 << 60), st.integers(0, 3), SMALL)


@given(st.lists(ADDRESSES, max_size=60))
def test_aliases_are_distinct_and_freed_with_their_last_lookup(addresses: list[Address]) -> None:
    aliases = Aliases()
    numbers = {}
    for address in addresses:
        number = aliases.number(address)
        aliases.hold(number)
        assert number & ALIAS
        assert number < 1 << 64
        assert numbers.setdefault(address, number) == number
    assert len(set(numbers.values())) == len(numbers)
    for address, number in numbers.items():
        assert aliases.address(number) == address
        assert aliases.forget(number, addresses.count(address)) == address
    assert len(aliases) == 0


def test_an_alias_that_was_never_answered_can_be_freed() -> None:
    aliases = Aliases()
    number = aliases.number(Address(1, 1, 5))
    aliases.forget(number, 0)
    assert len(aliases) == 0
