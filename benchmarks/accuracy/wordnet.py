"""MiniLM on WordNet: which of 500 nouns is it that the gloss defines?

Evaluation: 500 nouns and the first part of their gloss, and 2,000 others, which are told apart more finely (`r1_2000`: which of
these 2,000 is it?). Calibration: other nouns and glosses again, for the model embeds both.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import numpy as np
import onnxruntime as ort
from third_party import fetch, tokenizer_path

from accuracy.packages import debian, version_of
from accuracy.task import Array, Feeds, Figures, Outputs, Setting, Target, Task, cosine, latencies

PACKAGE = "wordnet-base"
QUERIES, POOL, MORE, BATCH = 500, 4096, 2000, 50


@cache
def nouns() -> dict[str, str]:
    """Noun -> gloss of its first sense in file order, where the noun is the first of its synset."""
    found: dict[str, str] = {}
    with (debian(PACKAGE) / "usr" / "share" / "wordnet" / "data.noun").open(encoding="ascii") as file:
        for line in file:
            if not line.startswith("  "):  # the licence
                head, gloss = line.split(" | ", 1)
                found.setdefault(head.split()[4].lower(), gloss.split(";")[0].strip())
    return {word.replace("_", " "): gloss for word, gloss in found.items()}


@cache
def _shuffled() -> list[tuple[str, str]]:
    pairs = list(nouns().items())
    return [pairs[k] for k in np.random.default_rng(0).permutation(len(pairs))[: QUERIES + POOL + MORE]]


def _tokens(texts: list[str]) -> Feeds:
    """Ids and mask `(texts, longest)`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path(fetch("minilm"))))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    coded = tokenizer.encode_batch(texts)
    return {"ids": np.array([c.ids for c in coded]), "mask": np.array([c.attention_mask for c in coded])}


def _embedded(session: ort.InferenceSession, texts: list[str]) -> Array:
    parts = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
    return np.concatenate([session.run(None, dict(_tokens(part)))[0] for part in parts])


def _ranks(outputs: Outputs, kind: str = "") -> Array:
    """Rank of the right word for each gloss, from 1."""
    similarity = outputs[f"{kind}glosses"] @ outputs[f"{kind}words"].T
    return np.asarray((similarity >= np.diag(similarity)[:, None]).sum(1))


class MiniLM(Task):
    """The ends of the position table (`pos`) are kept: they count only for longer texts than the traced ones."""

    name = "minilm"
    title = "all-MiniLM-L6-v2, gloss -> one of 500 WordNet nouns"
    metric = "r1"
    shown = ("drop", "mrr", "cosine")
    shapes: ClassVar = {"ids": (1, 32), "mask": (1, 32)}
    mask = "mask"
    samples, few = 2048, 512
    settings = (
        Setting("x 0.75 MACs", {"ignore": ("pos",)}, 0.75, targets=(Target("cosine", ">=", 0.975), Target("drop", "<=", 2))),
        Setting("x 0.67 MACs", {"ignore": ("pos",)}, 0.67, targets=(Target("cosine", ">=", 0.95),)),
        Setting(
            "FFN only, x 0.75 MACs",
            {"ignore": ("pos",), "attention": "off"},
            0.75,
            targets=(Target("cosine", ">=", 0.975), Target("drop", "<=", 2)),
        ),
        *latencies("", {"ignore": ("pos",)}, 0.75, 0.6),
    )

    def pool(self) -> Feeds:
        return _tokens([text for pair in _shuffled()[QUERIES : QUERIES + POOL] for text in pair])

    def trim(self, feeds: Feeds) -> Feeds:
        longest = int(feeds["mask"].sum(1).max())
        return {name: np.ascontiguousarray(values[:, :longest]) for name, values in feeds.items()}

    def outputs(self, session: ort.InferenceSession) -> Outputs:
        found = {}
        for kind, pairs in (("", _shuffled()[:QUERIES]), ("more_", _shuffled()[QUERIES + POOL :])):
            words, glosses = zip(*pairs, strict=True)
            found |= {f"{kind}words": _embedded(session, list(words)), f"{kind}glosses": _embedded(session, list(glosses))}
        return found

    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        ranks, before = _ranks(outputs), _ranks(dense)
        both = [np.concatenate([o["words"], o["glosses"]]) for o in (outputs, dense)]
        return {
            "r1": 100 * float((ranks == 1).mean()),
            "r1_2000": 100 * float((_ranks(outputs, "more_") == 1).mean()),
            "mrr": float((1 / ranks).mean()),
            "drop": 100 * float((before == 1).mean() - (ranks == 1).mean()),
            "agreement": 100 * float(((ranks == 1) == (before == 1)).mean()),
            "cosine": cosine(*both),
        }

    def data(self) -> dict[str, str]:
        return {PACKAGE: version_of(debian(PACKAGE))}


TASKS = (MiniLM,)
