"""The same, guided by the branches that inputs reach: python fuzz/guided.py [OPTION OF LIBFUZZER]... such as -max_total_time=60.

Needs atheris: pip install 'gsdata[fuzz]'. Inputs that reach something new are kept in fuzz/found/corpus.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
try:
    import atheris
except ModuleNotFoundError:
    sys.exit("this needs atheris, which is not installed: pip install 'gsdata[fuzz]'; fuzz/run.py works without")

with atheris.instrument_imports(include=["gsdata"]):
    import oracle
    from gsdata import mutating

ORACLE = oracle.Oracle()


def read(data: bytes) -> None:
    """Anything but a right reading or a refusal ends the run."""
    found = ORACLE.read(data)
    if found.problem:
        raise RuntimeError(f"{found.problem}: {found.said}")
    if found.held and (said := oracle.by_reader(data)[1]) != f"read {found.held}":
        raise RuntimeError(f"disagreement: spec/reader.py: {said}")


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """A change that keeps what it can right, or one of libFuzzer's own."""
    rng = random.Random(seed)
    if rng.random() < 0.8:
        try:
            changed = mutating.mutate(data, rng).data
        except ValueError:  # nothing there that this kind could change
            changed = data
        if changed != data and len(changed) <= most:
            return changed
    made: bytes = atheris.Mutate(data, most)
    return made


def main() -> None:
    """Run libFuzzer."""
    corpus = Path(__file__).resolve().parent / "found" / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    folders = [corpus, *(oracle.VECTORS / kind for kind in ("valid", "render", "invalid"))]
    options = ["-max_len=16384", "-rss_limit_mb=2048", f"-artifact_prefix={corpus.parent}/", *sys.argv[1:]]
    atheris.Setup([sys.argv[0], *options, *map(str, folders)], read, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
