"""The document as CSV: one line for each figure of each table."""

from __future__ import annotations

import csv
import io

from onnxprune.document.parts import Document

HEADER = ("section", "table", "row", "name", "column", "value", "text")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(document: Document) -> str:
    """CSV with a header.

    `row` counts from 1, `name` is what stands in the row's first cell; `value` is the figure in units of the column (bytes,
    ms, a share as 0..1) and empty for words, `text` is what people read.
    """
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(HEADER)
    for section, found in document.tables:
        for k, row in enumerate(found.rows, 1):
            for column, cell in zip(found.columns, row, strict=True):
                value = "" if cell.value is None else f"{cell.value:.10g}"
                table.writerow(
                    [section.name, found.name, k, plain(row[0].text), plain(column.title), value, plain(cell.text)]
                )
    return out.getvalue()


def plain(text: str) -> str:
    """Text that no spreadsheet takes for a formula; figures stay as they are."""
    flat = " ".join(text.split())
    if not flat.startswith(_FORMULA):
        return flat
    try:
        float(flat.partition(" ")[0])
    except ValueError:
        return f"'{flat}"
    return flat
