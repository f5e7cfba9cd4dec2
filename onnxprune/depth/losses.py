"""What the model's outputs lose without some branches, measured forward only.

One session serves all sets of branches: behind each summand s stands s * gate + constant, which is s at 1 and 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnxprune.calibrate.batch import Batch, Samples, splits
from onnxprune.errors import ModelError
from onnxprune.proof.session import first_line, open_session
from onnxprune.statistics.flow import lift
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.removal import SAMPLES
from onnxprune.statistics.sensitivity import chosen, compared

Array = NDArray[Any]


class BranchLosses:
    """Relative squared error of the outputs without some branches, the mean over float outputs.

    At most `SAMPLES` samples are looked at: those that judge removals of units (`onnxprune.statistics.removal`).

    Args:
        model: the model.
        constants: by summand what takes its place.
        samples: calibration samples.
        providers: that the model runs on.

    Raises:
        ModelError: ONNX Runtime can't run the model on the samples.
    """

    def __init__(
        self, model: onnx.ModelProto, constants: Mapping[str, Array], samples: Samples, providers: Providers = CPU
    ) -> None:
        self.constants, self.mask = constants, samples.mask
        self.outputs = [o.name for o in model.graph.output]
        self.runs = 0
        self._known: dict[frozenset[str], float] = {frozenset(): 0.0}
        self._batches = [(batch, rows) for batch, rows in chosen(model, samples, SAMPLES, held=splits(samples))]
        try:
            gated = _with_gates(lift(model), constants)
            self.session, self._weights = open_session(gated, optimize=True, often=True, providers=providers)
            self.inputs = {i.name for i in self.session.get_inputs()}
            self._dense = [self._run(batch, ()) for batch, _ in self._batches]
        except RuntimeError as error:
            raise _failed(error) from error

    def __call__(self, tensors: Collection[str]) -> float:
        """Without the branches that end in these summands.

        Raises:
            ModelError: ONNX Runtime can't run the model on the samples.
        """
        key = frozenset(tensors)
        if key not in self._known:
            self._known[key] = self._measured(key)
        return self._known[key]

    def _measured(self, tensors: Collection[str]) -> float:
        self.runs += 1
        total = np.zeros((len(self.outputs), 2))
        for (batch, rows), dense in zip(self._batches, self._dense, strict=True):
            after = self._run(batch, tensors)
            pairs = zip(dense, after, strict=True)
            total += np.array([compared(x, y, batch, rows, self.mask) for x, y in pairs])
        seen = total[:, 1] > 0
        loss = float((total[seen, 0] / total[seen, 1]).mean()) if seen.any() else np.inf
        return loss if np.isfinite(loss) else np.inf

    def _run(self, batch: Batch, tensors: Collection[str]) -> Sequence[Any]:
        feeds: dict[str, Array] = {n: a for n, a in batch.feeds.items() if n in self.inputs}
        for name, constant in self.constants.items():
            out = name in tensors
            feeds[_gate(name)] = np.asarray(0 if out else 1, constant.dtype)
            feeds[_shift(name)] = constant if out else np.zeros_like(constant)
        try:
            return list(self.session.run(self.outputs, feeds))
        except Exception as error:
            raise _failed(error) from error


def _failed(error: Exception) -> ModelError:
    return ModelError(f"ONNX Runtime can't run the model on the calibration samples: {first_line(error)}")


def _gate(name: str) -> str:
    return f"{name}_onnxprune_gate"


def _shift(name: str) -> str:
    return f"{name}_onnxprune_constant"


def _with_gates(model: onnx.ModelProto, constants: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with two inputs for each summand."""
    nodes = []
    renamed = {name: f"{name}_onnxprune_gated" for name in constants}
    for node in model.graph.node:
        node.input[:] = [renamed.get(n, n) for n in node.input]
        nodes.append(node)
        for name in (n for n in node.output if n in renamed):
            scaled = f"{name}_onnxprune_scaled"
            nodes.append(helper.make_node("Mul", [name, _gate(name)], [scaled]))
            nodes.append(helper.make_node("Add", [scaled, _shift(name)], [renamed[name]]))
    held = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(held)
    for name, constant in constants.items():
        kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
        model.graph.input.append(helper.make_tensor_value_info(_gate(name), kind, []))
        model.graph.input.append(helper.make_tensor_value_info(_shift(name), kind, constant.shape))
    return model
