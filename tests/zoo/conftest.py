import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

ZOO = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo"


@pytest.fixture(scope="session")
def index() -> dict[str, dict[str, Any]]:
    """The zoo's index by key."""
    return {row["key"]: row for row in json.loads((ZOO / "index.json").read_text("utf-8"))}


@pytest.fixture(scope="session")
def load() -> Callable[[str], onnx.ModelProto]:
    """A model of the zoo with its random weights."""
    sys.path.insert(0, str(ZOO))
    try:
        from hydrate import hydrate
    finally:
        sys.path.remove(str(ZOO))
    return lambda key: hydrate(str(ZOO / "topo" / f"{key}.onnx.gz"))
