"""Execution providers of ONNX Runtime that models run on: as they are asked for, or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        self, model: bytes | str, options: ort.SessionOptions | None = None, disabled: Sequence[str] = ()
    ) -> ort.InferenceSession:
        """A session on these providers; ONNX Runtime's CPU kernels take the nodes that a provider has no kernel for.

        Args:
            model: its bytes, or the path of its file.
            options: of the session.
            disabled: optimizers of ONNX Runtime that are left out.

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
        if any(name not in ort.get_available_providers() for name, _ in given if name in _plugged()):
            for name, held in given:
                options.add_provider_for_devices(_devices(name, held.pop("device", "")), held)
            session = ort.InferenceSession(model, options, disabled_optimizers=list(disabled))
        else:
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


def load_libraries(paths: Sequence[str | os.PathLike[str]]) -> None:
    """Makes providers of plug-in libraries known to this process, under the names that they give themselves.

    Raises:
        UsageError: a file is no such library, offers no device on this machine, or ONNX Runtime is older than 1.22.
    """
    import onnxruntime as ort

    if paths and not hasattr(ort, "register_execution_provider_library"):
        raise UsageError(f"provider libraries need ONNX Runtime 1.22 or later; this one is {ort.__version__}")
    for path in paths:
        found = os.path.realpath(path)
        if found in _LOADED:
            continue
        before = {d.ep_name for d in ort.get_ep_devices()}
        if not Path(found).is_file():
            raise UsageError(f"{path}: no such provider library; check the path")
        try:
            ort.register_execution_provider_library(found, found)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"{path}: ONNX Runtime can't load it as a provider library ({reason})") from error
        if {d.ep_name for d in ort.get_ep_devices()} == before:
            ort.unregister_execution_provider_library(found)
            raise UsageError(f"{path}: the provider library finds no device on this machine that it can use")
        _LOADED.add(found)


_LOADED: set[str] = set()


def available() -> list[str]:
    """ONNX Runtime's names of its providers, those of loaded libraries among them."""
    import onnxruntime as ort

    return list(dict.fromkeys([*ort.get_available_providers(), *_plugged()]))


def _plugged() -> list[str]:
    """Names of providers that come from libraries, or that can be opened by device."""
    import onnxruntime as ort

    return list(dict.fromkeys(d.ep_name for d in ort.get_ep_devices())) if _LOADED else []


def _devices(name: str, kind: str) -> list[Any]:
    """The first device of a provider, of the kind that is asked for: `cpu`, `gpu` or `npu`.

    Raises:
        UsageError: there is none.
    """
    import onnxruntime as ort

    all_of = [d for d in ort.get_ep_devices() if d.ep_name == name]
    found = [d for d in all_of if not kind or d.device.type.name.lower() == kind.lower()]
    if not found:
        kinds = ", ".join(sorted({d.device.type.name.lower() for d in all_of})) or "none"
        raise UsageError(f"execution provider {short(name)!r} has no device {kind!r}; it has {kinds}")
    return found[:1]


def threads() -> int:
    """Threads of a session: those that products in numpy have too (`OMP_NUM_THREADS`); 0 for all cores."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(given) if given.isdecimal() else 0


def parse_providers(texts: Sequence[str]) -> Providers:
    """Providers by their names in any case, with or without `ExecutionProvider`: `cpu`, `cuda:device_id=1,NAME=VALUE`.

    Raises:
        UsageError: one is not part of this ONNX Runtime, or an option has no value.
    """
    there = {short(name): name for name in available()}
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
