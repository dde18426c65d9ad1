"""A store that is still being written, or whose writing was stopped: what of it is there."""

from __future__ import annotations

from dataclasses import dataclass

from dist_attr.store.manifest import Manifest
from dist_attr.store.places import Place
from dist_attr.store.table import SourceRecord


@dataclass(frozen=True, eq=False)
class UnfinishedStore:
    """An unfinished influence store. Its tangents are not handed out.

    Attributes:
        place: where it is, with how to reach it.
        manifest: what it will hold; its model is not known yet.
        records: its sources table.
        steps: for each record, after how many steps of the run its row was written; −1 if it was not.
    """

    place: Place
    manifest: Manifest
    records: tuple[SourceRecord, ...]
    steps: tuple[int, ...]

    @property
    def url(self) -> str:
        """Where it is."""
        return self.place.url

    @property
    def written(self) -> list[str]:
        """Names of the sources whose rows are there."""
        return [record.name for record, step in zip(self.records, self.steps, strict=True) if step >= 0]

    @property
    def missing(self) -> list[str]:
        """Names of the sources whose rows are not."""
        return [record.name for record, step in zip(self.records, self.steps, strict=True) if step < 0]

    @property
    def stored_bytes(self) -> int:
        """Size of all objects of the store so far."""
        return self.place.stored_bytes()

    @property
    def why(self) -> str:
        """Why it is not opened, in words."""
        if self.missing:
            return f"{self.url} is not finished, these sources are missing: {', '.join(self.missing)}"
        return f"{self.url} is not finished: it was stopped before its model was saved and the store declared complete"
