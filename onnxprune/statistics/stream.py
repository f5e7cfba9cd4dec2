"""Runs a model over all samples piece by piece: each node once, up to the tensors that are asked for next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnxprune.calibrate.batch import Batch, Samples
from onnxprune.errors import ModelError, UsageError
from onnxprune.proof.session import first_line
from onnxprune.statistics.device import on_device
from onnxprune.statistics.flow import Flow
from onnxprune.statistics.providers import CPU, Providers
from onnxprune.statistics.shelf import Item, Shelf, taken

if TYPE_CHECKING:
    import onnxruntime as ort

Array = NDArray[Any]
Tensor: TypeAlias = "Array | ort.OrtValue"


def on_host(tensor: Tensor) -> Array:
    """A tensor as an array."""
    return tensor if isinstance(tensor, np.ndarray) else np.asarray(tensor.numpy())


class View:
    """Tensors of one batch of a stream."""

    def __init__(self, stream: Stream, index: int, batch: Batch, fresh: Mapping[str, Tensor]) -> None:
        self.index, self.batch = index, batch
        self._stream, self._fresh = stream, fresh

    def get(self, name: str) -> Array:
        """A tensor that was asked for, an input or a weight."""
        fresh = self._fresh.get(name)
        return np.asarray(self._stream.get(name, self.index, self.batch.feeds)) if fresh is None else on_host(fresh)

    def value(self, name: str) -> ort.OrtValue:
        """The same where the model runs."""
        fresh = self._fresh.get(name)
        if fresh is None or isinstance(fresh, np.ndarray):
            return on_device(self.get(name), self._stream.providers.device)
        return fresh

    def shaped(self, name: str) -> Array:
        """Zeros of the same shape, without a copy from the device."""
        fresh = self._fresh.get(name)
        shape = self.get(name).shape if fresh is None or isinstance(fresh, np.ndarray) else fresh.shape()
        return np.broadcast_to(np.float32(0), shape)


def open_part(model: onnx.ModelProto, providers: Providers) -> ort.InferenceSession:
    """A session for a part of a model: fast, but with nothing computed in another way than the graph says.

    ONNX Runtime merges a Pad with zeros into a MaxPool, which ignores padding; and it turns quantized nodes into integer
    arithmetic.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # numpy needs the cores in between
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return providers.open(model.SerializeToString(), options, ["Pad_Fusion"])


def run_on_device(
    session: ort.InferenceSession, given: Mapping[str, Array], outputs: Sequence[str], device: tuple[str, int]
) -> list[Tensor]:
    """One run whose outputs stay on the device."""
    binding = session.io_binding()
    for name, array in given.items():
        binding.bind_ortvalue_input(name, on_device(array, device))
    for name in outputs:
        binding.bind_output(name, *device)
    session.run_with_iobinding(binding)
    return list(binding.get_outputs())


def element_type(tensor: Tensor) -> int:
    """Of ONNX."""
    if isinstance(tensor, np.ndarray):
        return int(helper.np_dtype_to_tensor_dtype(tensor.dtype))
    return int(tensor.element_type())


class Stream:
    """A model in mid-run over all batches.

    What is computed stays until nobody needs it any more; what goes beyond the budget lies in files. Weights can be changed
    between two calls of `compute`, for the nodes that have not run yet. What is in `pinned` stays in any case.

    Args:
        model: the model; nodes in bodies run with the node that holds them.
        samples: what is fed.
        budget: bytes of activations that are held in memory.
        providers: that it runs on.
    """

    def __init__(self, model: onnx.ModelProto, samples: Samples, budget: int = 1 << 30, providers: Providers = CPU) -> None:
        self.model, self.samples = model, samples
        self.flow = Flow(model)
        self.weights: dict[str, Array] = {}
        self.done: set[int] = set()
        self.pinned: set[str] = set()
        self.held: dict[str, list[Item]] = {}
        self.kinds: dict[str, int] = {}
        self.shelf = Shelf(budget)
        self.providers = providers
        self.listener: Callable[[str, dict[str, Any]], None] = lambda call, arguments: None  # told of what changes the state

    def compute(self, names: Iterable[str]) -> None:
        """Makes tensors available to `get` until the next call.

        Raises:
            ModelError: ONNX Runtime can't run the part.
        """
        for _ in self.walk(names, hold=True):
            pass

    def walk(self, names: Iterable[str], *, hold: bool = False) -> Iterator[View]:
        """Goes on to some tensors, batch by batch: what nobody awaits any more is never put on the shelf.

        To be iterated to its end: only then the nodes count as done.

        Args:
            names: what the views have to give.
            hold: keep these tensors until the next call.

        Yields: access to the tensors of one batch.

        Raises:
            ModelError: ONNX Runtime can't run the part.
        """
        wanted = [n for n in dict.fromkeys(names) if n not in self.flow.inputs and n not in self.flow.initializers]
        self.listener("walk", {"names": wanted, "hold": hold})
        missing = [n for n in wanted if n not in self.held]
        new = self.flow.ancestors(missing, known=self.held)
        self.done |= {k for k in new if self.flow.varying[k]}
        made = {o for k in new for o in self.flow.nodes[k].output if o and o not in self.held}
        kept = {n for n in made if self.flow.varying[self.flow.producer[n]] and self.awaited(n)}
        kept |= set(missing) if hold else set()
        results: dict[str, list[Item]] = {n: [] for n in sorted(kept)}
        outputs = sorted(kept | set(missing))
        ran = self.run(sorted(new), outputs) if outputs else iter(())
        for b, batch in enumerate(self.samples.batches):
            fresh = next(ran, {})
            for name, items in results.items():
                items.append(self.shelf.put(on_host(fresh[name])))
            yield View(self, b, batch, fresh)
        self.held |= results
        for name in [n for n in self.held if not self.awaited(n) and not (hold and n in wanted)]:
            self.drop(name)

    def awaited(self, name: str) -> bool:
        """A node that has not run reads it, or it is pinned."""
        return name in self.pinned or any(k not in self.done for k, _ in self.flow.readers.get(name, ()))

    def redo(self, nodes: Iterable[int]) -> None:
        """Nodes that have to run again, with weights that changed; what they read from elsewhere has to be pinned."""
        nodes = set(nodes)
        self.done -= nodes
        self.listener("redo", {"nodes": sorted(nodes)})
        for name in [n for n in self.held if self.flow.producer.get(n) in nodes]:
            self.drop(name)

    def get(self, name: str, batch: int, feeds: Mapping[str, Array]) -> Array:
        """A tensor of one batch."""
        if name in self.flow.inputs:
            return feeds[name]
        held = self.held.get(name)
        if held is None:
            constant = self.weights.get(name)
            return numpy_helper.to_array(self.flow.initializers[name]) if constant is None else constant
        return taken(held[batch])

    def run(self, nodes: Sequence[int], outputs: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Runs some nodes over all batches, and yields some of their outputs: where they are, if moments are taken there."""
        made = {o for k in nodes for o in self.flow.nodes[k].output}
        read = {n for k in nodes for n in self.flow.reads(k)} - made
        inputs = [n for n in sorted(read) if n in self.flow.inputs or n in self.held]
        try:
            session = open_part(self.part(nodes, inputs, outputs, read), self.providers)
            for b, batch in enumerate(self.samples.batches):
                given = {n: self.get(n, b, batch.feeds) for n in inputs}
                found: list[Tensor] = (
                    run_on_device(session, given, outputs, self.providers.device)
                    if self.providers.in_graph
                    else session.run(list(outputs), given)
                )
                self.kinds |= {n: element_type(t) for n, t in zip(outputs, found, strict=True)}
                yield dict(zip(outputs, found, strict=True))
        except UsageError:
            raise
        except Exception as error:
            first = self.flow.nodes[nodes[0]]
            raise ModelError(
                f"ONNX Runtime can't run the model on the calibration samples, in the part from node "
                f"{first.name or first.output[0]!r} on: {first_line(error)}"
            ) from error

    def probe(self, nodes: Set[int], given: Mapping[str, Array], name: str, batch: Batch) -> Array:
        """What some nodes make of other values of some tensors, with all else as it is in the first batch.

        Args:
            nodes: to be run.
            given: tensors with these values.
            name: a tensor that they make.
            batch: the first batch.
        """
        others = {
            o for k, varies in enumerate(self.flow.varying) if varies and k not in nodes for o in self.flow.nodes[k].output
        }
        nodes = self.flow.ancestors([name], known=others)
        made = {o for k in nodes for o in self.flow.nodes[k].output}
        read = {n for k in nodes for n in self.flow.reads(k)} - made
        inputs = [n for n in sorted(read) if n in self.flow.inputs or n in self.held]
        session = open_part(self.part(sorted(nodes), inputs, [name], read), self.providers)
        feeds = {n: given[n] if n in given else self.get(n, 0, batch.feeds) for n in inputs}
        return np.asarray(session.run([name], feeds)[0])

    def part(self, nodes: Sequence[int], inputs: Sequence[str], outputs: Sequence[str], read: set[str]) -> onnx.ModelProto:
        """A model of some nodes."""
        infos = []
        for name in inputs:
            if name in self.flow.inputs:
                infos.append(self.flow.inputs[name])
            else:
                infos.append(helper.make_tensor_value_info(name, self.kinds[name], None))
        weights = []
        for name in sorted(read & self.flow.initializers.keys()):
            changed = self.weights.get(name)
            weights.append(self.flow.initializers[name] if changed is None else numpy_helper.from_array(changed, name))
        graph = helper.make_graph(
            [self.flow.nodes[k] for k in nodes],
            "part",
            infos,
            [helper.make_empty_tensor_value_info(n) for n in outputs],
            weights,
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def drop(self, name: str) -> None:
        """Forgets a tensor."""
        for array in self.held.pop(name):
            self.shelf.drop(array)
