"""Breaks the rules one at a time and shows that the tests notice.

    python benchmarks/mutations.py
    python benchmarks/mutations.py --only 'concat*' --source some/other/checkout

Each mutation replaces one piece of source in a temporary copy of the package, never in place, and runs the tests against the
copy until the first failure. A piece that is not found exactly once is an error: the mutation is out of date. The tests must
pass unchanged. Writes `benchmarks/results/mutations.json`. Exit codes: 0 all were noticed, 1 some survived, 2 the tests fail
unchanged or a mutation is out of date.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TESTS = ("tests/properties/test_random_graphs.py", "tests/trace", "tests/select", "tests/plan", "tests/proof")
IGNORED = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True)
class Mutation:
    """One piece of source that becomes another.

    Attributes:
        name: what is broken.
        path: file below `onnxprune/`.
        old: piece of source, exactly once in the file.
        new: what takes its place.
    """

    name: str
    path: str
    old: str
    new: str


MOVE, CONV, ELEMENTWISE, NORM = (f"trace/rules/{n}.py" for n in ("move", "conv", "elementwise", "norm"))
MUTATIONS = (
    Mutation("concat-offset", MOVE, "np.concatenate(parts, axis=position), all(", "np.roll(np.concatenate(parts, axis=position), 1, axis=position), all("),
    Mutation("split-offset", MOVE, "        start = stop\n", "        start = stop - 1\n"),
    Mutation("transpose-inverse", "trace/moves.py", "[list(perm).index(a) for a in f.axes]", "[list(perm)[a] for a in f.axes]"),
    Mutation("reshape-order", "trace/moves.py", ".reshape([after[a] for a in outs])\n", ".reshape([after[a] for a in outs], order='F')\n"),
    Mutation("gqa-tile", "trace/rules/attention.py", "np.repeat(f.labels, times, axis=f.axes.index(1))", "np.concatenate([f.labels] * times, axis=f.axes.index(1))"),
    Mutation("expand-not-repeated", MOVE, "np.tile(f.labels, [int(repeats[a]) for a in f.axes])", "np.repeat(f.labels, int(repeats[f.axes[0]]), axis=0)"),
    Mutation("depthwise-multiplier", CONV, "        op.space.tie(cells, out)\n", "        op.space.tie(cells, out[:, :1])\n"),
    Mutation("conv-group-rows", CONV, "    op.space.tie(labels, rows(op, out))\n", ""),
    Mutation("conv-group-attribute", CONV, '        op.count("group", None, cells[:, 0])\n', ""),
    Mutation("conv-input-not-tied", CONV, "        op.space.tie(cells, into)\n", "        op.space.end(cells)\n"),
    Mutation("slice-start", MOVE, "add=picked.start - start", "add=picked.start - start + 1"),
    Mutation("batch-norm-variance", NORM, "[(op.need(i), [1]) for i in range(1, 5)]", "[(op.need(i), [1]) for i in range(1, 4)]"),
    Mutation("softmax-not-frozen", ELEMENTWISE, '    op.freeze_axis(op.need(0), op.axis(default=-1))\n    op.same(zero=False)\n', "    op.same(zero=False)\n"),
    Mutation("sigmoid-keeps-zero", ELEMENTWISE, '    """f(0) != 0."""\n    op.same(zero=False)\n', '    """f(0) != 0."""\n    op.same()\n'),
    Mutation("divisor-zero", ELEMENTWISE, "    _never_zero(op, 1)\n", ""),
    Mutation("contraction-not-tied", "trace/unify.py", "        space.tie(old.labels, new.labels.transpose([new.names.index(n) for n in old.names]))\n", ""),
    Mutation("sum-of-constants-exact", "trace/unify.py", "        if summed and not any(bool(z) for z in f.zeros):\n", "        if False:\n"),
    Mutation("bare-operand-not-frozen", "trace/unify.py", "                    space.freeze(one.labels, reason)\n", "                    space.end(one.labels)\n"),
    Mutation("outputs-not-frozen", "trace/tracer.py", 'self.freeze(value, f"it reaches graph output {value.name!r}")', "pass"),
    Mutation("edit-not-applied", "surgery/follow.py", "                    if not np.array_equal(actual, wanted):\n", "                    if False:\n"),
    Mutation("edit-length-off-by-one", "surgery/follow.py", "length(alive, edit.labels, edit.position) + edit.add\n", "length(alive, edit.labels, edit.position) + edit.add - 1\n"),
    Mutation("gather-index-not-renumbered", "surgery/follow.py", "        return np.asarray(rank[picked][kept[picked]], array.dtype)\n", "        return np.asarray(picked[kept[picked]], array.dtype)\n"),
    Mutation("split-sizes-stay", "surgery/follow.py", "        self.splits()\n", ""),
    Mutation("lstm-gates-not-tied", "trace/rules/rnn.py", "        op.space.tie(part, hidden[:, None])\n", "        op.space.end(part)\n"),
    Mutation("heads-not-counted", "trace/rules/attention.py", "        op.count(slot, None, f.labels, f.axes.index(1))\n", "        pass\n"),
    Mutation("scale-follows", "trace/rules/attention.py", "1 / float(np.sqrt(q.sizes[3]))", "2 / float(np.sqrt(q.sizes[3]))"),
    Mutation("depth-to-space-order", CONV, 'labels.reshape(-1, block) if op.attr("mode", "DCR") == "CRD"', 'labels.reshape(-1, block) if op.attr("mode", "DCR") != "CRD"'),
    Mutation("blocks-swapped", "surgery/weights.py", "axes.append(np.flatnonzero(mask if mask.ndim == 1 else mask[b]))", "axes.append(np.flatnonzero(mask if mask.ndim == 1 else mask[-1 - b]))"),
    Mutation("plan-in-first-block", "plan/plan.py", "    for row, own in zip(rows, table, strict=True):\n", "    for row, own in zip(rows, [table[0]] * len(table), strict=True):\n"),
    Mutation("keeps-least-important", "select/allocate.py", "sorted(np.argsort(s, kind=\"stable\")[:count].tolist())", "sorted(np.argsort(-s, kind=\"stable\")[:count].tolist())"),
)  # fmt: skip


@dataclass
class Outcome:
    """What the tests said of one copy."""

    passed: bool
    test: str
    seconds: float


def copy(source: Path, target: Path) -> None:
    """The package and its tests."""
    for name in ("onnxprune", "tests"):
        shutil.copytree(source / name, target / name, ignore=IGNORED)


def mutate(folder: Path, mutation: Mutation) -> None:
    """Replaces one piece of source.

    Raises:
        ValueError: it is not there, or not alone.
    """
    path = folder / "onnxprune" / mutation.path
    text = path.read_text("utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.name}: {mutation.path} holds its piece of source {text.count(mutation.old)} times")
    path.write_text(text.replace(mutation.old, mutation.new), "utf-8")


def test(folder: Path, tests: list[str]) -> Outcome:
    """Runs tests against a copy until one fails; its name."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "--tb=no",
        "--rootdir=.",
        "-c",
        os.devnull,
        *tests,
    ]
    start = time.perf_counter()
    # seeds and number of examples as in every run of the tests
    environment = {k: v for k, v in os.environ.items() if k != "ONNXPRUNE_EXAMPLES"} | {
        "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "ONNXPRUNE_SHRINK": "0",
    }  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    failed = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    if done.returncode and not failed:
        raise SystemExit(f"pytest: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return Outcome(done.returncode == 0, failed[1] if failed else "", time.perf_counter() - start)


def attempt(source: Path, mutation: Mutation | None, tests: list[str]) -> Outcome:
    """The tests against a fresh copy with one mutation, or none."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        folder = Path(name)
        copy(source, folder)
        if mutation:
            mutate(folder, mutation)
        return test(folder, tests)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="glob of mutation names")
    parser.add_argument("--source", type=Path, default=ROOT, help="folder that holds the package and its tests")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="what to run, in this order")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mutations.json")
    arguments = parser.parse_args()
    chosen = [m for m in MUTATIONS if fnmatch.fnmatch(m.name, arguments.only)]
    try:
        with tempfile.TemporaryDirectory(prefix="mutation-") as name:
            for k, mutation in enumerate(chosen):
                copy(arguments.source, Path(name) / str(k))
                mutate(Path(name) / str(k), mutation)
    except ValueError as error:
        print(error)
        return 2
    clean = attempt(arguments.source, None, arguments.tests)
    if not clean.passed:
        print(f"the tests fail unchanged: {clean.test}")
        return 2
    print(f"unchanged: all pass in {clean.seconds:.0f} s", flush=True)
    rows = []
    for mutation in chosen:
        outcome = attempt(arguments.source, mutation, arguments.tests)
        rows.append(
            {
                "mutation": mutation.name,
                "file": mutation.path,
                "killed_by": outcome.test,
                "seconds": round(outcome.seconds, 1),
            }
        )
        print(f"{mutation.name:<30} {outcome.test or 'SURVIVED':<80} {outcome.seconds:6.1f} s", flush=True)
    survived = [r["mutation"] for r in rows if not r["killed_by"]]
    print(
        f"{len(rows) - len(survived)} of {len(rows)} mutations noticed"
        + (f"; survived: {', '.join(survived)}" if survived else "")
    )
    if arguments.only == "*":
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(
            json.dumps({"tests": arguments.tests, "clean_seconds": round(clean.seconds, 1), "mutations": rows}, indent=1)
            + "\n"
        )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
