"""How fast ONNX Runtime runs what each simplifier leaves, on ten models of different kinds.

`python benchmarks/simplify.py --latency FOLDERS` calls it. For each model the contestants write their results in processes
of their own; `onnxprune.benchmark` then measures all of them and the source in fresh processes that take turns. Written
down are the median of each round of each process, so that other statistics can be made of them, and the ratio of our
latency to every other.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
from coverage import ZOO, Job, Record, run_all, source_hash
from simplify_report import OURS, PEERS

SOURCE = "source"
MakeJob = Callable[[str, Path, str, str], Job]
"""From key, path, contestant and the file of its result to the job."""


@dataclass(frozen=True)
class Chosen:
    """A model of the comparison: what it stands for, and shapes of inputs, where neither it nor the zoo's index tells them."""

    kind: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


MODELS = {
    "efficientnet_lite0": Chosen("CNN, public"),
    "light_densenet121": Chosen("CNN, weights by ConstantOfShape"),
    "dpn__timm_dpn48b": Chosen("CNN with norms in front"),
    "ppocr_det": Chosen("text detection, public", {"x": (1, 3, 320, 320)}),
    "detection__rt_detr": Chosen("object detection, TorchScript"),
    "vit__timm_vit_small_legacy_unfused": Chosen("vision transformer, TorchScript"),
    "bert__bert_base_128": Chosen("text encoder, dynamo"),
    "minilm": Chosen("text encoder, public", {"ids": (1, 128), "mask": (1, 128)}),
    "gpt__gpt2_lm_tied": Chosen("decoder, dynamo"),
    "audio__wav2vec2_ctc": Chosen("speech, dynamo"),
}


@dataclass(frozen=True)
class Effort:
    """How long each model is measured: the fewest processes of each file, and seconds after which no more are started."""

    processes: int
    seconds: float


def measure_latencies(
    models: dict[str, Path],
    make_job: MakeJob,
    effort: Effort,
    timeout: float,
    known: Record,
    done: Callable[[Record], None],
) -> None:
    """Measures those of the ten models that are there, and hands on all records after each of them.

    Args:
        models: paths by key.
        make_job: of the contestant that writes a result.
        effort: how long.
        timeout: seconds for one contestant to simplify one model.
        known: records that are kept as they are, by key.
        done: called with all records.
    """
    records = {k: r for k, r in known.items() if k in MODELS}
    wanted = [k for k in MODELS if k in models and k not in records]
    for number, key in enumerate(wanted, 1):
        with tempfile.TemporaryDirectory(prefix="simplify-latency-") as folder:
            files, failed = _files(key, models[key], make_job, Path(folder), timeout)
            if OURS not in files:
                raise SystemExit(f"{key}: {failed[OURS]}")
            records[key] = _measured(key, files, failed, effort, _shapes(key, make_job(key, models[key], OURS, "")))
        print(f"{number:3}/{len(wanted)} {key}: {_told(records[key])}", flush=True)
        done({k: records[k] for k in MODELS if k in records})


def _files(key: str, path: Path, make_job: MakeJob, folder: Path, timeout: float) -> tuple[dict[str, Path], dict[str, str]]:
    """The source and what each contestant made of it, and why some made nothing that runs."""
    files = {SOURCE: folder / f"{SOURCE}.onnx"}
    onnx.save(_loaded(path), files[SOURCE])
    failed = {}
    todo = [make_job(key, path, name, str(folder / f"{name}.onnx")) for name in (OURS, *PEERS)]
    for job, record in run_all(todo, 1, timeout):
        problem = record.get("error") or record.get("run")
        if problem:
            failed[job.contestant] = problem
        else:
            files[job.contestant] = _readable(folder / f"{job.contestant}.onnx")
    return files, failed


def _readable(path: Path) -> Path:
    """A result that the checker refuses only because initializers had to be inputs, too, before IR 4."""
    model = onnx.load(path)
    stored = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in stored]
    if model.ir_version < 4 and len(model.graph.input) < len(inputs) + len(stored):
        model.ir_version = 4
        del model.graph.input[:]  # in IR 4 an initializer that is an input, too, may change from run to run
        model.graph.input.extend(inputs)
        onnx.save(model, path)
    return path


def _shapes(key: str, job: Job) -> dict[str, tuple[int, ...]]:
    """Of the inputs that the contestants are tried with."""
    return {i["name"]: tuple(i["shape"]) for i in job.request["inputs"] or ()} | MODELS[key].shapes


def _measured(
    key: str, files: dict[str, Path], failed: dict[str, str], effort: Effort, shapes: dict[str, tuple[int, ...]]
) -> Record:
    """Latencies of all files; ours is the first, which the others are compared with."""
    import onnxprune

    order = [OURS, *(n for n in files if n != OURS)]
    request = onnxprune.BenchRequest(threads=(1,), shapes=shapes, processes=effort.processes, seconds=effort.seconds)
    (found,) = onnxprune.benchmark([files[n] for n in order], request=request).configurations
    models: Record = {}
    for name, each in zip(order, found.measurements, strict=True):
        models[name] = {
            "p50_ms": each.times.p50,
            "p90_ms": each.times.p90,
            "session_ms": each.session_ms,
            "rounds_ms": [[round(float(ms), 6) for ms in p.times.medians] for p in each.processes],
        }
        if each.speedup is not None:  # our time by its time
            models[name]["ours_by_it"] = asdict(each.speedup)
    return {
        "kind": MODELS[key].kind,
        "inputs": {k: list(v) for k, v in found.inputs.items()},
        "threads": found.threads,
        "models": models,
        "failed": failed,
        "noise": list(found.noise),
        "source": source_hash(),
    }


def _loaded(path: Path) -> onnx.ModelProto:
    """A model of the zoo with its weights, or of a plain file."""
    if path.suffix != ".gz":
        return onnx.load(path)
    spec = importlib.util.spec_from_file_location("hydrate", ZOO / "hydrate.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: onnx.ModelProto = module.hydrate(str(path))
    return model


def _told(record: Record) -> str:
    texts = [f"{n} {m['p50_ms']:.3g} ms" for n, m in record["models"].items()]
    return ", ".join([*texts, *(f"{n} fails" for n in record["failed"]), *record["noise"][:1]])
