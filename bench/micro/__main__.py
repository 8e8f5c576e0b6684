"""``python -m bench.micro``: every single step, recorded like the large figures."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import trio

from bench.micro import block, worker
from bench.micro.record import Record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="MiB of the E01")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # workers are killed on purpose
    record = Record()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        block.plans(record, folder)
        trio.run(block.hits, record, folder)
        trio.run(block.ewf, record, folder, given.mib)
    trio.run(worker.main, record)
    worker.attributes(record)
    record.write(given.out)


if __name__ == "__main__":
    main()
