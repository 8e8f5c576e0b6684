"""``python -m bench.decrypt``: what decryption costs, beside the library on the same cores.

For LUKS2 with sectors of 512 and 4,096 bytes (aes-xts-plain64, 512 bit keys, as cryptsetup sets it up): the
library's one call per 64 KiB in as many processes as there are cores; our pool's calls in as many threads;
the plaintext read sequentially through the mount, and the ciphertext through the same mount. The image is in
the page cache. Units: MB/s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.systems import IMGFS, quiet
from imgfs.block import ciphers
from imgfs.model import Codec

MIB = 1 << 20
KEY = bytes(range(64))
PIECE = 64 * 1024
CORES = len(os.sched_getaffinity(0))


def library(total: int) -> None:
    """Decrypt ``total`` bytes, 64 KiB a call: no tweak but the first is computed."""
    data, out = os.urandom(PIECE), bytearray(PIECE + 16)
    for number in range(total // PIECE):
        mode = modes.XTS(number.to_bytes(16, "little"))
        Cipher(algorithms.AES(KEY), mode).decryptor().update_into(data, out)


def ours(total: int, sector: int) -> None:
    """Decrypt ``total`` bytes as a pool thread does."""
    codec = Codec("aes-xts", {"key": KEY, "iv": b"plain64"})
    data = bytearray(os.urandom(PIECE))
    for number in range(total // PIECE):
        ciphers.decrypt(codec, sector, number * PIECE // sector, 1, data)


def timed(work: Callable[[], object], size: int) -> float:
    begin = time.perf_counter()
    work()
    return size / (time.perf_counter() - begin) / 1e6


def in_processes(total: int) -> None:
    with multiprocessing.Pool(CORES) as pool:
        pool.map(library, [total // CORES] * CORES)


def in_threads(total: int, sector: int) -> None:
    threads = [threading.Thread(target=ours, args=(total // CORES, sector)) for _ in range(CORES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read(path: Path) -> int:
    buffer, total = bytearray(MIB), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total


def image(folder: Path, sector: int, size: int) -> Path:
    path = folder / f"luks-{sector}.img"
    with path.open("wb") as file:
        file.truncate(16 * MIB + size)
    words = ["--type", "luks2", "--sector-size", str(sector), "--pbkdf", "pbkdf2"]
    words += ["--pbkdf-force-iterations", "1000", "-c", "aes-xts-plain64", "-s", "512"]
    command = ["cryptsetup", "-q", "--disable-locks", "luksFormat", *words, str(path), "-"]
    subprocess.run(command, input=b"bench", check=True)
    with path.open("r+b") as file:
        file.seek(16 * MIB)
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of plaintext")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    size = given.size * MIB
    rows = []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as under:
        folder = Path(under)
        keys = folder / "keys.toml"
        keys.write_text('[[key]]\ntype = "password"\nvalue = "bench"\n')
        keys.chmod(0o600)
        for sector in (512, 4096):
            path = image(folder, sector, size)
            found: dict[str, list[float]] = {"library": [], "pool": [], "plaintext": [], "ciphertext": []}
            for number in range(given.rounds):
                path.read_bytes()
                found["library"].append(timed(lambda: in_processes(2 * size), 2 * size))
                found["pool"].append(timed(lambda s=sector: in_threads(2 * size, s), 2 * size))
                for what, name in (("plaintext", "00-luks.plaintext"), ("ciphertext", "00-luks")):
                    point = folder / f"m{sector}-{number}-{what}"
                    point.mkdir()
                    quiet(*IMGFS, "mount", "--keys", keys, path, point)
                    try:
                        volume = point / path.name / name / "volume.raw"
                        found[what].append(timed(lambda v=volume: read(v), size))
                    finally:
                        quiet(*IMGFS, "umount", "--force", point)
            row = {"sector": sector, **{k: [round(v) for v in vs] for k, vs in found.items()}}
            middle = {k: statistics.median(v) for k, v in found.items()}
            row["pool / library"] = round(middle["pool"] / middle["library"], 2)
            row["plaintext / library"] = round(middle["plaintext"] / middle["library"], 2)
            row["plaintext / ciphertext"] = round(middle["plaintext"] / middle["ciphertext"], 2)
            rows.append(row)
            print(json.dumps(row), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "decrypt.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
