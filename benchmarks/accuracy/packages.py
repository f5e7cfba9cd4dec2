"""Data sets and fonts from Debian and Python packages, unpacked into the cache, never installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from third_party import FetchError, default_cache, unzip_wheel


def data_cache() -> Path:
    """The folder of unpacked packages, beside the cached models."""
    return default_cache() / "data"


def debian(package: str) -> Path:
    """Root of an unpacked Debian package; `usr/share/...` lies below it.

    Raises:
        FetchError: `apt-get` or `dpkg-deb` is missing or failed.
    """

    def unpack(folder: Path, work: Path) -> str:
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            raise FetchError(f"{package} is a Debian package: unpack it by hand into {data_cache() / package}")
        _run(package, ["apt-get", "download", package], work)
        archive = next(work.glob("*.deb"))
        _run(package, ["dpkg-deb", "-x", str(archive), str(folder)], work)
        return _run(package, ["dpkg-deb", "-f", str(archive), "Version"], work).strip()

    return _cached(package, unpack)


def wheel(name: str, version: str) -> Path:
    """Root of an unpacked wheel.

    Raises:
        FetchError: it could not be downloaded.
    """

    def unpack(folder: Path, work: Path) -> str:
        unzip_wheel(f"{name}=={version}", work, folder)
        return version

    return _cached(f"{name}-{version}", unpack)


def source(name: str, version: str) -> Path:
    """Root of an unpacked source distribution, for packages without a wheel; nothing of it is installed.

    Raises:
        FetchError: it could not be downloaded.
    """

    def unpack(folder: Path, work: Path) -> str:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        _run(name, [*command, f"{name}=={version}"], work)
        with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
            archive.extractall(work / "out", filter="data")
        for part in next((work / "out").iterdir()).iterdir():
            part.rename(folder / part.name)
        return version

    return _cached(f"{name}-{version}", unpack)


def version_of(root: Path) -> str:
    """Version of an unpacked package, "unknown" where it was put there by hand."""
    note = root.with_name(root.name + ".json")
    return str(json.loads(note.read_text())["version"]) if note.is_file() else "unknown"


def _cached(key: str, unpack: Callable[[Path, Path], str]) -> Path:
    target = data_cache() / key
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # The work folder lies in the cache, so that the last step is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{key}-", dir=target.parent) as place:
        folder, work = Path(place) / "unpacked", Path(place) / "archive"
        folder.mkdir()
        work.mkdir()
        version = unpack(folder, work)
        target.with_name(target.name + ".json").write_text(json.dumps({"version": version}) + "\n")
        folder.replace(target)
    return target


def _run(what: str, command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise FetchError(f"{what}: {' '.join(command[:2])} failed with exit code {done.returncode}\n{tail}")
    return done.stdout
