"""PP-OCRv4 recogniser: WordNet's nouns, drawn in the DejaVu fonts.

Evaluation: 200 words, once with noise (`exact`, `cer`) and once in small type (`exact_small`, `cer_small`).
Calibration: other words, half of them small.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import numpy as np
import onnxruntime as ort

from accuracy.packages import debian, version_of
from accuracy.task import Array, Feeds, Figures, Outputs, Setting, Target, Task, batches
from accuracy.wordnet import PACKAGE, nouns

FONTS = ("fonts-dejavu-core", "fonts-dejavu-extra")
WORDS, POOL = 200, 1024
HEIGHT, WIDTH = 48, 320
NOISY, SMALL = (32, 40.0), (10, 15.0)  # type size in pixels, standard deviation of the noise in grey levels


@cache
def _words() -> list[str]:
    known = sorted(w for w in nouns() if w.isalpha() and w.isascii() and 4 <= len(w) <= 12)
    return [str(w) for w in np.random.default_rng(0).permutation(known)[: WORDS + POOL]]


@cache
def _fonts() -> list[str]:
    files = [f for package in FONTS for f in (debian(package) / "usr" / "share" / "fonts").rglob("DejaVuS*.ttf")]
    return [str(f) for f in sorted(files, key=lambda f: f.name)]


def _drawn(word: str, rng: np.random.Generator, size: int, noise: float) -> Array:
    """Dark on light with noise, scaled to the recogniser's height and padded: `(3, HEIGHT, WIDTH)` in -1..1."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(_fonts()[rng.integers(len(_fonts()))], size)
    left, top, right, bottom = (round(x) for x in font.getbbox(word))
    pad = max(2, size // 4)
    image = Image.new("L", (right - left + 2 * pad, bottom - top + 2 * pad), int(rng.integers(200, 256)))
    ImageDraw.Draw(image).text((pad - left, pad - top), word, font=font, fill=int(rng.integers(0, 80)))
    grey = np.asarray(image, np.float32) + rng.normal(0, noise, (image.height, image.width))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    out = np.zeros((3, HEIGHT, WIDTH), np.float32)
    out[:, :, :width] = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
    return out


@cache
def _evaluation(size: int, noise: float) -> Array:
    rng = np.random.default_rng(1)
    return np.stack([_drawn(word, rng, size, noise) for word in _words()[:WORDS]])


@cache
def _calibration() -> Array:
    rng = np.random.default_rng(2)
    return np.stack([_drawn(word, rng, *(SMALL if k % 2 else NOISY)) for k, word in enumerate(_words()[WORDS:])])


def _read(session: ort.InferenceSession, images: Array) -> list[str]:
    """Greedy CTC: repeats are one, class 0 is blank, the last class is the space."""
    letters = ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    texts = []
    for part in batches(images, 20):
        for row in session.run(None, {"x": part})[0].argmax(-1):
            kept = row[np.flatnonzero(np.diff(row, prepend=-1))]
            texts.append("".join(letters[k] for k in kept if k).strip())
    return texts


def distance(a: str, b: str) -> int:
    """Edits between two texts (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def _cer(texts: Array) -> float:
    words = _words()[:WORDS]
    return 100 * sum(distance(t, w) for t, w in zip(texts, words, strict=True)) / sum(map(len, words))


class Recogniser(Task):
    name = "ppocr_rec"
    title = "PP-OCRv4 recogniser, 200 words with noise and 200 in small type"
    metric = "cer"
    shown = ("cer_rise", "exact", "cer_small", "exact_small", "agreement")
    shapes: ClassVar = {"x": (1, 3, HEIGHT, WIDTH)}
    settings = (Setting("-25 % MACs", {}, 0.75, inner=False, targets=(Target("cer_rise", "<=", 0.5),)),)
    batch = 16

    def pool(self) -> Feeds:
        return {"x": _calibration()}

    def outputs(self, session: ort.InferenceSession) -> Outputs:
        return {
            "noisy": np.array(_read(session, _evaluation(*NOISY))),
            "small": np.array(_read(session, _evaluation(*SMALL))),
        }

    def figures(self, outputs: Outputs, dense: Outputs) -> Figures:
        right = np.array(_words()[:WORDS])
        return {
            "cer": _cer(outputs["noisy"]),
            "cer_rise": _cer(outputs["noisy"]) - _cer(dense["noisy"]),
            "exact": 100 * float((outputs["noisy"] == right).mean()),
            "cer_small": _cer(outputs["small"]),
            "exact_small": 100 * float((outputs["small"] == right).mean()),
            "agreement": 100 * float(np.mean([(outputs[k] == dense[k]).mean() for k in ("noisy", "small")])),
        }

    def data(self) -> dict[str, str]:
        return {package: version_of(debian(package)) for package in (PACKAGE, *FONTS)}


TASKS = (Recogniser,)
