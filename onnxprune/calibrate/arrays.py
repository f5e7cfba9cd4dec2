"""Arrays in files: npy, npz and serialized ONNX tensors. None of them is trusted to run code."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from onnxprune.calibrate.signature import Array
from onnxprune.errors import ModelError
from onnxprune.proof.session import first_line


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an npz file by name.

    Raises:
        ModelError: the file is missing, damaged, or holds anything but plain arrays.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ModelError(f"{path}: holds one array; save named arrays with numpy.savez")
        with archive:
            held = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: is no npz file of plain arrays ({first_line(error)})") from None
    # Members of the archive that are no arrays come as bytes.
    return {name: array for name, array in held.items() if isinstance(array, np.ndarray)}


def map_npy(path: Path) -> Array:
    """The array of an npy file, read from the file when it is used.

    Raises:
        ModelError: the file is missing, damaged, or no plain array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: is no npy file of a plain array ({first_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise ModelError(f"{path}: is an archive; give it the suffix .npz")
    return array


def read_tensor(path: Path) -> tuple[str, Array]:
    """Name, which may be empty, and value of a serialized `TensorProto`.

    Raises:
        ModelError: the file is damaged or holds no tensor.
    """
    try:
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        return tensor.name, numpy_helper.to_array(tensor)
    except (OSError, DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: is no serialized TensorProto ({first_line(error)})") from None
