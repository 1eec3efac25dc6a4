"""A folder of tidy tables: parquet for machines, CSV beside it for people, and the summary in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError
from workbench.storage import beside, write_json

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "summary.json"


class Tables:
    """Tables by name, in a folder that is made when the first one is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def names(self) -> list[str]:
        """The tables that are there."""
        return sorted(file.stem for file in self.path.glob("*.parquet"))

    def file(self, name: str) -> Path:
        """Where a table stands."""
        return self.path / f"{name}.parquet"

    def write(self, name: str, table: pd.DataFrame) -> Path:
        """Write a table as parquet and CSV, each whole or not at all; gives the parquet's path."""
        with beside(self.file(name)) as part:
            table.to_parquet(part, index=False)
        with beside(self.path / f"{name}.csv") as part:
            table.to_csv(part, index=False)
        return self.file(name)

    def replace(self, name: str, table: pd.DataFrame) -> None:
        """Write a table that has rows; of one that has none, nothing stays, an older one neither."""
        if len(table):
            self.write(name, table)
        else:
            for file in (self.file(name), self.path / f"{name}.csv"):
                file.unlink(missing_ok=True)

    def write_large(self, name: str, table: pd.DataFrame, **names: str | int) -> Path:
        """Write a table of many rows as parquet alone, whole or not at all, with `names` as further columns: the integers take
        almost no room, and the CSV that would take ten times as much is left out (one of an earlier analysis is removed)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrow = pa.Table.from_pandas(table, preserve_index=False)
        for column, value in names.items():
            repeated = pa.repeat(pa.scalar(value), len(table)).dictionary_encode()
            arrow = arrow.append_column(column, repeated)
        floats = [field.name for field in arrow.schema if pa.types.is_floating(field.type)]
        with beside(self.file(name)) as part:
            pq.write_table(
                arrow,
                part,
                compression="zstd",
                use_dictionary=[column for column in arrow.column_names if column not in floats],  # pyright: ignore[reportArgumentType]
                use_byte_stream_split=floats,  # pyright: ignore[reportArgumentType]
            )
        (self.path / f"{name}.csv").unlink(missing_ok=True)
        return self.file(name)

    def read(self, name: str) -> pd.DataFrame | None:
        """A table; None where there is none. Raises CheckpointError where it is damaged."""
        import pandas as pd
        import pyarrow

        if not self.file(name).is_file():
            return None
        try:
            return pd.read_parquet(self.file(name))
        except (pyarrow.ArrowException, OSError):
            raise CheckpointError(f"{self.file(name)} is damaged; analyse the run again") from None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write what an analysis says in words and numbers."""
        write_json(self.path / SUMMARY, summary)

    def read_summary(self) -> dict[str, Any] | None:
        """What `write_summary` wrote; None where there is none."""
        path = self.path / SUMMARY
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError:
            raise CheckpointError(f"{path} is damaged; analyse the run again") from None
