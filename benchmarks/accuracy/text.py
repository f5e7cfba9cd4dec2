"""SmolLM2 on plain text: perplexity of scikit-learn's descriptions of its data sets.

Evaluation: their first 2,048 tokens in windows of 256. Calibration: windows of Python's tutorial, how-tos and FAQ.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from third_party import fetch, tokenizer_path

from accuracy.packages import debian, version_of, wheel
from accuracy.task import Array, Feeds, Figures, Outputs, Setting, Target, Task

SKLEARN = ("scikit-learn", "1.9.1")
PYTHON = "python3.11-doc"
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
    """`(windows, WINDOW)`, all of the text."""
    sources = next((debian(PYTHON) / "usr" / "share" / "doc").glob("python3*/html/_sources"))
    files = [f for folder in ("tutorial", "howto", "faq") for f in sorted((sources / folder).glob("*.rst.txt"))]
    ids = _ids("\n".join(f.read_text(encoding="utf-8") for f in files))
    return ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)


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
        return {SKLEARN[0]: version_of(wheel(*SKLEARN)), PYTHON: version_of(debian(PYTHON))}


TASKS = (SmolLM2,)
