"""SmolLM2 on plain text: perplexity of scikit-learn's descriptions of its data sets.

Evaluation: their first 2,048 tokens in windows of 256. Calibration: windows of other text of several kinds, in equal parts:
Python's tutorial, how-tos and FAQ, the user guide of pandas, and what statsmodels says of its data sets and models.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from third_party import fetch, tokenizer_path

from accuracy.packages import debian, version_of, wheel
from accuracy.task import Array, Feeds, Figures, Outputs, Setting, Target, Task

SKLEARN = ("scikit-learn", "1.9.1")
STATSMODELS = ("statsmodels", "0.15.0")
PYTHON, PANDAS = "python3.11-doc", "python-pandas-doc"
TOKENS, WINDOW = 2048, 256


def _ids(text: str) -> Array:
    from tokenizers import Tokenizer

    return np.array(Tokenizer.from_file(str(tokenizer_path(fetch("smollm2")))).encode(text).ids)


@cache
def _evaluation() -> Array:
    """`(windows, WINDOW)`."""
    files = sorted((wheel(*SKLEARN) / "sklearn" / "datasets" / "descr").glob("*.rst"))
    return _ids("\n".join(f.read_text(encoding="utf-8") for f in files))[:TOKENS].reshape(-1, WINDOW)


@cache
def _calibration() -> Array:
    """`(windows, WINDOW)`, as many of each kind of text."""
    python = _documents(PYTHON, "python3*", ("tutorial", "howto", "faq"))
    pandas = _documents(PANDAS, "python-pandas-doc", ("user_guide",))
    statsmodels = wheel(*STATSMODELS) / "statsmodels"
    modules = [*sorted(statsmodels.glob("datasets/*/data.py")), *sorted(statsmodels.glob("*/*.py"))]
    kinds = [_windows(text) for text in (python, pandas, "\n\n".join(t for m in modules for t in _prose(m)))]
    return np.concatenate([k[: min(map(len, kinds))] for k in kinds])


def _windows(text: str) -> Array:
    """`(windows, WINDOW)`."""
    ids = _ids(text)
    return ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)


def _documents(package: str, name: str, folders: tuple[str, ...]) -> str:
    """Sources of the pages of a documentation."""
    sources = next((debian(package) / "usr" / "share" / "doc").glob(f"{name}/html/_sources"))
    files = [f for folder in folders for f in sorted((sources / folder).glob("*.rst.txt"))]
    return "\n".join(f.read_text(encoding="utf-8") for f in files)


def _prose(module: Path) -> Iterator[str]:
    """Strings of a module that are text: docstrings, and what describes a data set."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 200:
            yield node.value


class SmolLM2(Task):
    name = "smollm2"
    title = "SmolLM2-135M-Instruct, 2,048 tokens of scikit-learn's text"
    metric = "perplexity"
    shown = ("perplexity_ratio", "top1", "agreement")
    shapes: ClassVar = {"ids": (1, WINDOW)}
    samples, few, seeds, batch = 128, 0, 1, 2
    settings = (Setting("FFN 20 %", {"ratio": 0.2, "attention": "off"}, targets=(Target("perplexity_ratio", "<=", 1.35),)),)

    def pool(self) -> Feeds:
        return {"ids": _calibration()}

    def outputs(self, session: ort.InferenceSession) -> Outputs:
        """Per token: log-probability of the one that comes, and the most likely one."""
        logp, top = [], []
        for window in _evaluation():
            logits = session.run(None, {"ids": window[None]})[0][0, :-1].astype(np.float64)
            logits -= logits.max(1, keepdims=True)
            following = logits[np.arange(len(logits)), window[1:]]
            logp.append(following - np.log(np.exp(logits).sum(1)))
            top.append(logits.argmax(1))
        return {"logp": np.concatenate(logp), "top": np.concatenate(top)}

    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        following = _evaluation()[:, 1:].reshape(-1)
        perplexity, before = (float(np.exp(-o["logp"].mean())) for o in (outputs, dense))
        return {
            "perplexity": perplexity,
            "perplexity_ratio": perplexity / before,
            "top1": 100 * float((outputs["top"] == following).mean()),
            "agreement": 100 * float((outputs["top"] == dense["top"]).mean()),
        }

    def data(self) -> dict[str, str]:
        wheels = {package[0]: version_of(wheel(*package)) for package in (SKLEARN, STATSMODELS)}
        return wheels | {package: version_of(debian(package)) for package in (PYTHON, PANDAS)}


TASKS = (SmolLM2,)
