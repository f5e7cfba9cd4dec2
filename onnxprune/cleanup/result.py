"""What a simplification hands back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto

from onnxprune.io.walk import graphs
from onnxprune.proof.oracle import Verification


@dataclass
class PassRecord:
    """What one pass did.

    Attributes:
        changes: nodes or constants it changed, over all rounds.
        seconds: it took.
        declined: node name -> why the pass left it alone, in the end.
        needs_opset: version of the ONNX domain without which it could not run; 0 where it could.
    """

    changes: int = 0
    seconds: float = 0.0
    declined: dict[str, str] = field(default_factory=dict)
    needs_opset: int = 0


@dataclass
class SimplifyReport:
    """Figures of a simplification.

    Attributes:
        before: nodes of the source by operator, in all graphs and functions; Constant nodes are counted as initializers are,
            not at all.
        after: nodes of the result by operator.
        bytes_before: of the source, external data included.
        bytes_after: of the result.
        passes: what each pass did, by its name, in the order in which they ran.
        seconds: reading and simplifying took.
        size_threshold: bytes by which the file might grow for one constant.
        verification: comparison with the source on random inputs; None where there was none.
        unverified: why there was none.
        check_seconds: it took.
    """

    before: dict[str, int]
    after: dict[str, int]
    bytes_before: int
    bytes_after: int
    passes: dict[str, PassRecord]
    seconds: float
    size_threshold: int
    verification: Verification | None = None
    unverified: str = "not asked for"
    check_seconds: float = 0.0

    @property
    def nodes_before(self) -> int:
        """Nodes of the source."""
        return sum(self.before.values())

    @property
    def nodes_after(self) -> int:
        """Nodes of the result."""
        return sum(self.after.values())

    @property
    def changed(self) -> bool:
        """Any pass found something to do."""
        return any(record.changes for record in self.passes.values())

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain data."""
        return asdict(self) | {"nodes_before": self.nodes_before, "nodes_after": self.nodes_after}


@dataclass
class SimplifyResult:
    """Result of `simplify`.

    Attributes:
        proto: the simplified model; external data that no pass touched is still in the source's files.
        report: figures.
        folder: of the source's external files, None where it has none.
    """

    proto: ModelProto
    report: SimplifyReport
    folder: Path | None = field(default=None, repr=False)

    @property
    def model(self) -> ModelProto:
        """The simplified model, with all its data; reads external files where there are any."""
        if self.folder is None:
            return self.proto
        import onnx.external_data_helper

        whole = ModelProto()
        whole.CopyFrom(self.proto)
        onnx.external_data_helper.load_external_data_for_model(whole, str(self.folder))
        return whole

    def save(self, path: str | os.PathLike[str], *, source_path: str | os.PathLike[str] | None = None) -> None:
        """Writes the model, atomically; external data goes to `<name>.data` tensor by tensor.

        Args:
            path: the output file.
            source_path: the file the model was made from; neither it nor its external data may be overwritten.

        Raises:
            UsageError: the output can't be written there.
        """
        from onnxprune.io.save import save_model

        save_model(
            self.proto, path, external_data=True if self.folder else None, source_path=source_path, folder=self.folder
        )


def operators(model: ModelProto) -> dict[str, int]:
    """Nodes by operator, in all graphs and functions, Constant nodes aside."""
    return dict(sorted(Counter(n.op_type for n in _nodes(model) if n.op_type != "Constant").items()))


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node
