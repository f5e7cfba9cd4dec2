"""Execution providers of ONNX Runtime that models run on: as they are asked for, or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime as ort

_SUFFIX = "ExecutionProvider"


@dataclass(frozen=True)
class Providers:
    """Providers in order of preference, with their options.

    Attributes:
        chosen: ONNX Runtime's names, each with options as ONNX Runtime takes them.
        in_graph: compute moments with ONNX Runtime too, so that activations stay on its device.
    """

    chosen: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ((f"CPU{_SUFFIX}", ()),)
    in_graph: bool = False

    @property
    def device(self) -> tuple[str, int]:
        """Where tensors lie: kind and number."""
        name, options = self.chosen[0]
        kind = {"CUDA": "cuda", "Tensorrt": "cuda", "NvTensorRTRTX": "cuda", "ROCM": "cuda", "MIGraphX": "cuda"}
        return kind.get(name.removesuffix(_SUFFIX), "cpu"), int(dict(options).get("device_id", 0))

    def open(
        self, model: bytes, options: ort.SessionOptions | None = None, disabled: Sequence[str] = ()
    ) -> ort.InferenceSession:
        """A session on these providers; ONNX Runtime's CPU kernels take the nodes that a provider has no kernel for.

        Raises:
            UsageError: a provider did not start, where ONNX Runtime itself would go on without it.
        """
        import onnxruntime as ort

        if options is None:
            options = ort.SessionOptions()
            options.log_severity_level = 4
        if not options.intra_op_num_threads:
            options.intra_op_num_threads = threads()
        given = [(name, dict(held)) for name, held in self.chosen]
        session = ort.InferenceSession(model, options, providers=given, disabled_optimizers=list(disabled))
        running = session.get_providers()
        for name, _ in self.chosen:
            if name not in running:
                raise UsageError(
                    f"execution provider {short(name)!r} is part of this ONNX Runtime but did not start: its libraries or "
                    f"its device are missing; running are {_listed(running)}"
                )
        return session


CPU = Providers()


def threads() -> int:
    """Threads of a session: those that products in numpy have too (`OMP_NUM_THREADS`); 0 for all cores."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdecimal() else 0


def parse_providers(texts: Sequence[str]) -> Providers:
    """Providers by their names in any case, with or without `ExecutionProvider`: `cpu`, `cuda:device_id=1,NAME=VALUE`.

    Raises:
        UsageError: one is not part of this ONNX Runtime, or an option has no value.
    """
    import onnxruntime as ort

    there = {short(name): name for name in ort.get_available_providers()}
    chosen = []
    for text in texts:
        name, _, rest = text.partition(":")
        found = there.get(short(name.strip()))
        if found is None:
            raise UsageError(
                f"execution provider {name!r} is not part of this ONNX Runtime; it has {_listed(there.values())}"
            )
        options = []
        for item in filter(None, rest.split(",")):
            key, equals, value = item.partition("=")
            if not equals or not key.strip():
                raise UsageError(f"execution provider {text!r}: {item!r} is no option; write {short(name)}:NAME=VALUE")
            if key.strip() == "device_id" and not value.strip().isdecimal():
                raise UsageError(f"execution provider {text!r}: device_id is a number, such as {short(name)}:device_id=0")
            options.append((key.strip(), value.strip()))
        chosen.append((found, tuple(options)))
    if not chosen:
        return CPU
    result = Providers(tuple(chosen))
    return Providers(result.chosen, result.device[0] != "cpu")


def short(name: str) -> str:
    """`CUDAExecutionProvider` -> `cuda`."""
    return name.lower().removesuffix(_SUFFIX.lower())


def _listed(names: object) -> str:
    return ", ".join(sorted(short(n) for n in names))  # type: ignore[attr-defined]
