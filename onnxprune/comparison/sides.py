"""The two models of a comparison: what is fed to both, which outputs belong together, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, inliner

from onnxprune.calibrate.signature import Input, inputs_of, listed
from onnxprune.errors import ModelError, UsageError
from onnxprune.proof.session import first_line, open_session
from onnxprune.proof.widen import is_narrow, widened
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.providers import Providers

Array = NDArray[Any]


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of two models that belong together, by the names of the first.

    Attributes:
        inputs: name in the first model -> name in the second.
        outputs: the same of outputs.
        notes: what was not matched by name.
    """

    inputs: dict[str, str]
    outputs: dict[str, str]
    notes: tuple[str, ...] = ()


class Side:
    """One model, ready to be run as a whole or in parts. bfloat16 is run as float32.

    Args:
        model: not changed.
        name: for errors.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        inlined = inliner.inline_local_functions(model) if model.functions else model
        self.name, self.narrow = name, is_narrow(inlined)
        self.model = widened(inlined) if self.narrow else inlined
        self.flow = Flow(self.model)

    def fed(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Feeds that the model has inputs for, in types that it is run in."""
        known = self.flow.inputs
        return {n: a.astype(np.float32) if a.dtype.name == "bfloat16" else a for n, a in feeds.items() if n in known}

    def part(self, outputs: Sequence[str], given: Mapping[str, Array]) -> onnx.ModelProto:
        """The nodes that some tensors depend on, as a model; `given` tensors are inputs, what only they need is left out."""
        part = onnx.ModelProto(ir_version=self.model.ir_version)
        part.opset_import.extend(self.model.opset_import)
        part.metadata_props.extend(self.model.metadata_props)
        graph, read = part.graph, set(outputs)
        graph.name = self.model.graph.name or "part"
        for k in sorted(self.flow.ancestors(outputs, known=given)):
            node = graph.node.add()
            node.CopyFrom(self.flow.nodes[k])
            read.update(self.flow.reads(k))
            for i, name in enumerate(node.output):
                if name in given:
                    node.output[i] = f"{name}/replaced"
        graph.initializer.extend(t for t in self.model.graph.initializer if t.name in read)
        graph.sparse_initializer.extend(t for t in self.model.graph.sparse_initializer if t.values.name in read)
        graph.input.extend(i for i in self.model.graph.input if i.name in read and i.name in self.flow.inputs)
        for name, array in given.items():
            if name in read:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        graph.output.extend(helper.make_value_info(n, onnx.TypeProto()) for n in outputs)
        return part

    def tensors(
        self, outputs: Sequence[str], feeds: Mapping[str, Array], given: Mapping[str, Array], providers: Providers
    ) -> list[Any]:
        """Values of some tensors of the main graph, as it is written.

        Raises:
            RuntimeError: ONNX Runtime can't run that part of the model.
            UsageError: a provider did not start.
        """
        part = self.part(outputs, given)
        session, alive = open_session(part, providers=providers)
        wanted = {i.name for i in session.get_inputs()}
        held = {n: a for n, a in {**self.fed(feeds), **given}.items() if n in wanted}
        try:
            return list(session.run(list(outputs), held))
        except Exception as error:
            raise RuntimeError(first_line(error)) from error
        finally:
            del session, alive


class Whole:
    """A model as ONNX Runtime runs it by default.

    Args:
        side: the model.
        inputs: name of a feed -> name of its input.
        outputs: name that the output gets -> its own name.
        providers: that it runs on.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        UsageError: a provider did not start.
    """

    def __init__(self, side: Side, inputs: Mapping[str, str], outputs: Mapping[str, str], providers: Providers) -> None:
        self.side, self.inputs, self.outputs = side, inputs, outputs
        try:
            self.session, self.alive = open_session(side.model, optimize=True, often=True, providers=providers)
        except UsageError:
            raise
        except RuntimeError as error:
            raise ModelError(f"{side.name}: ONNX Runtime can't load it ({error})") from error

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Outputs of one run.

        Raises:
            RuntimeError: it fails.
        """
        held = self.side.fed({own: feeds[name] for name, own in self.inputs.items()})
        try:
            results = self.session.run(list(self.outputs.values()), held)
        except Exception as error:
            raise RuntimeError(first_line(error)) from error
        return dict(zip(self.outputs, results, strict=True))


def interface(first: Side, second: Side) -> Interface:
    """Inputs and outputs by name; where names differ, by position among those that are left, with types and ranks alike.

    Raises:
        ModelError: the second model needs an input that the first has not, or no output belongs to one of the first.
    """
    ours, theirs = inputs_of(first.model), inputs_of(second.model)
    inputs, notes = _inputs(ours, theirs, second.name)
    mine, yours = [o.name for o in first.model.graph.output], [o.name for o in second.model.graph.output]
    outputs = {n: n for n in mine if n in yours}
    rest, left = [n for n in mine if n not in outputs], [n for n in yours if n not in outputs]
    if rest and len(rest) == len(left):
        outputs = {n: outputs.get(n) or left[rest.index(n)] for n in mine}
        notes.append(f"outputs by position: {_arrows(rest, left)}")
    elif rest or left:
        notes.append(f"outputs of one model only: {listed([*rest, *left])}")
    if not outputs:
        raise ModelError(f"{second.name}: has outputs {listed(yours)}, none of which is one of {listed(mine)}")
    return Interface(inputs, outputs, tuple(notes))


def _inputs(ours: Sequence[Input], theirs: Sequence[Input], where: str) -> tuple[dict[str, str], list[str]]:
    known = {i.name for i in ours}
    found = {i.name: i.name for i in theirs if i.name in known}
    rest, left = [i for i in ours if i.name not in found], [i for i in theirs if i.name not in found]
    if not left:
        return found, [f"inputs of the first model only: {listed(i.name for i in rest)}"] if rest else []
    alike = len(rest) == len(left) and all(
        (p.dtype.kind == q.dtype.kind and None in (p.rank, q.rank)) or p.rank == q.rank
        for p, q in zip(rest, left, strict=False)
    )
    if not alike:
        raise ModelError(
            f"{where}: takes {listed(i.name for i in left)}, for which the first model has no input; "
            f"its inputs are {listed(i.name for i in ours)}"
        )
    found |= {p.name: q.name for p, q in zip(rest, left, strict=True)}
    return found, [f"inputs by position: {_arrows([i.name for i in rest], [i.name for i in left])}"]


def _arrows(one: Sequence[str], other: Sequence[str]) -> str:
    return ", ".join(f"{a!r} is {b!r}" for a, b in zip(one, other, strict=True))
