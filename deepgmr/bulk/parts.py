"""What is answered, kept in parts as it comes, and put together at the end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepgmr.errors import InvalidFile
from deepgmr.extras import extra
from deepgmr.io.disk import reason, replacing
from deepgmr.pipeline.answer import Failure
from deepgmr.pipeline.jobs import Result


def row_of(pair: int | str, result: Result, seconds: float) -> dict[str, Any]:
    """What is kept of an answer."""
    row = {"id": pair, "status": result.status.value, "confidence": float(result.confidence), "seconds": seconds}
    if isinstance(result, Failure):
        return row | {"error": result.sentence, "notes": []}  # what is left out is null
    return row | {
        "target_from_source": result.target_from_source.ravel().tolist(),
        "covariance": result.covariance.ravel().tolist(),
        "overlap": result.overlap,
        "notes": list(result.notes),
        "bundle": result.stats.bundle,
    }


class Parts:
    """The folder of parts beside the table of results to be: `results.parquet.parts/`.

    A part appears whole or not at all: locally by a rename, in an object store by the store's own rule. Two that hold the
    same pair (a driver was killed, and its last worker lived on) say the same of it; one of them counts.
    """

    def __init__(self, output: str, id_type: Any) -> None:
        self.output = output
        self._fs, self._place = extra("fsspec", "bulk", "writing tables").core.url_to_fs(output)
        self._folder = f"{self._place}.parts"
        self._id_type = id_type

    def check(self) -> None:
        """Make the folder. Raises `InvalidFile` where it cannot be made."""
        try:
            self._fs.makedirs(self._folder, exist_ok=True)
            trial = f"{self._folder}/.{secrets.token_hex(4)}"
            self._fs.pipe_file(trial, b"-")
            self._fs.rm_file(trial)
        except (OSError, ValueError) as error:
            raise InvalidFile(f"{self.output}: cannot be written ({reason(error)}); choose another folder") from None

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep the rows of some pairs. Raises `InvalidFile`."""
        if not rows:
            return
        import pyarrow
        from pyarrow import parquet

        buffer = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=self.schema), buffer)
        self._put(f"{self._folder}/{secrets.token_hex(8)}.parquet", buffer.getvalue().to_pybytes())

    def done(self) -> set[int | str]:
        """The ids of the pairs that are answered, in parts or in the table that they became."""
        return {pair for path in self._paths() for pair in self._read(path, ["id"])["id"].to_pylist()}

    def merge(self, order: Sequence[int | str]) -> list[dict[str, Any]]:
        """Write the table of the pairs that are answered, in the order of their ids, and drop the parts.

        Returns the rows, without what is long in them.
        """
        import pyarrow
        from pyarrow import parquet

        tables = [self._read(path, None) for path in self._paths()]
        table = pyarrow.concat_tables([self.schema.empty_table(), *tables])
        first: dict[int | str, int] = {}
        for number, pair in enumerate(table["id"].to_pylist()):
            first.setdefault(pair, number)
        table = table.take([first[pair] for pair in order if pair in first])
        buffer = pyarrow.BufferOutputStream()
        parquet.write_table(table, buffer)
        self._put(self._place, buffer.getvalue().to_pybytes())
        self._fs.rm(self._folder, recursive=True)
        return table.select(["id", "status", "confidence", "seconds"]).to_pylist()

    @property
    def schema(self) -> Any:
        import pyarrow as arrow

        numbers = arrow.list_(arrow.float64())
        columns = {
            **{"id": self._id_type, "status": arrow.string(), "confidence": arrow.float64()},
            **{"target_from_source": numbers, "covariance": numbers, "overlap": arrow.float64()},
            **{"error": arrow.string(), "notes": arrow.list_(arrow.string())},
            **{"seconds": arrow.float64(), "bundle": arrow.string()},
        }
        return arrow.schema(list(columns.items()))

    def _paths(self) -> list[str]:
        parts = self._fs.glob(f"{self._folder}/*.parquet") if self._fs.exists(self._folder) else []
        return [*([self._place] if self._fs.exists(self._place) else []), *sorted(map(str, parts))]

    def _read(self, path: str, columns: list[str] | None) -> Any:
        import pyarrow
        from pyarrow import parquet

        try:
            with self._fs.open(path, "rb") as stream:
                table = parquet.read_table(stream, columns=columns)
            return table.cast(self.schema if columns is None else pyarrow.schema([self.schema.field("id")]))
        except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
            raise InvalidFile(
                f"{path}: is no table of results of these pairs ({reason(error)[:200]}); move it away, or choose another "
                "output"
            ) from None

    def _put(self, path: str, content: bytes) -> None:
        local = "file" in ([self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol)
        try:
            if not local:
                self._fs.pipe_file(path, content)
                return
            with replacing(Path(path)) as stream:
                stream.write(content)
        except OSError as error:
            raise InvalidFile(f"{path}: could not be written ({reason(error)}); make room") from None
