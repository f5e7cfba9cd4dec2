"""What a file is that does not hold a model: another format, half a model, or no model at all."""

from onnx import ModelProto

_FOREIGN_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the model; run `git lfs pull`"),
    (0, b"\x1f\x8b", "is gzip-compressed; decompress it first"),
    (0, b"PK\x03\x04", "is a zip archive (a PyTorch checkpoint?); export it to ONNX first"),
    (0, b"\x80\x02", "is a Python pickle (a PyTorch checkpoint?); export it to ONNX first"),
    (0, b"\x89HDF", "is an HDF5 file (a Keras model?); convert it to ONNX first"),
    (4, b"ORTM", "is in ONNX Runtime's ORT format; use the ONNX file it was made from"),
    (4, b"TFL3", "is a TensorFlow Lite model; convert it to ONNX first"),
)


def diagnose(data: bytes, parsed: bool = False) -> str:
    """Why the bytes of a file are no model, to follow its name; `parsed`: they are a protobuf all the same."""
    for offset, magic, text in _FOREIGN_FORMATS:
        if data[offset : offset + len(magic)] == magic:
            return text
    if _is_truncated(data):
        return "is truncated; export or download it again"
    if parsed:
        return "is a protobuf, but not an ONNX model (it has no graph); name a model file"
    return "is not an ONNX model (not a protobuf); name a binary .onnx file"


def _is_truncated(data: bytes) -> bool:
    """Whether the top level reads like the fields of a `ModelProto` whose last one goes on past the end of the file."""
    known = ModelProto.DESCRIPTOR.fields_by_number
    at = fields = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number not in known or wire_type not in (0, 2):
            return False
        value, at = _varint(data, at)
        if wire_type == 2:
            at += value
        if at > len(data):
            # The first field of every writer is the IR version; a lone string is no model.
            return fields > 0 or number == ModelProto.GRAPH_FIELD_NUMBER
        fields += 1
    return False


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at` and where the next value starts; past the end of `data` if it is cut off."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    return value, at + 1
