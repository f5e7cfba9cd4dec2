"""Contestants at equal targets: the command line of such a benchmark, and the records that it writes.

A file is a JSON list, one record for each case; what is there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def parser(
    doc: str | None, models: Sequence[str], targets: Sequence[str], contestants: Iterable[str], out: Path
) -> argparse.ArgumentParser:
    """The options that all have."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--models", nargs="+", default=list(models))
    found.add_argument("--targets", nargs="+", default=list(targets))
    found.add_argument("--contestants", nargs="+", default=list(contestants), choices=list(contestants))
    found.add_argument("--out", type=Path, default=out)
    found.add_argument("--list", action="store_true", help="only tell what there is")
    found.add_argument("--report", action="store_true", help="only print the table")
    return found


def listing(models: Iterable[str], targets: Iterable[str], contestants: Iterable[str]) -> str:
    """What there is."""
    return f"models: {' '.join(models)}\ntargets: {' '.join(targets)}\ncontestants: {', '.join(contestants)}"


class Records:
    """Those of one file.

    Args:
        path: of the file, which need not be there.
        keys: that tell one case from another, in the order of the arguments of `measure`.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self.keys = path, keys
        self.all: list[Record] = json.loads(path.read_text()) if path.exists() else []

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("[\n" + ",\n".join(json.dumps(r) for r in self.all) + "\n]\n")

    def add(self, cases: Iterable[tuple[Any, ...]], measure: Callable[..., Record], score: str) -> None:
        """Measures what is missing, and prints the figure `score` of each."""
        known = {tuple(r[k] for k in self.keys) for r in self.all}
        for case in cases:
            if case in known:
                continue
            record = dict(zip(self.keys, case, strict=True)) | measure(*case)
            self.all.append(record)
            self.save()
            print(*case, record.get(score, record.get("error")), flush=True)
