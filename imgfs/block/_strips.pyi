KINDS: dict[str, int]
MOST_STORED: int
MOST_UNITS: int

class Engine:
    def fileno(self) -> int: ...
    def work(self) -> None: ...
    def submit(
        self,
        number: int,
        kind: int,
        fd: int,
        offset: int,
        stored: int,
        unit: int,
        cuts: bytes,
        out: bytearray,
        first: int = 0,
        step: int = 0,
        /,
    ) -> None: ...
    def finished(self) -> list[tuple[int, bool]]: ...
    def close(self) -> None: ...
