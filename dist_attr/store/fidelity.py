"""Writing into a finished store how faithful its scores were found to be."""

from __future__ import annotations

from collections.abc import Sequence

from dist_attr.store.manifest import Manifest, MeasuredFidelity
from dist_attr.store.places import clear_errors
from dist_attr.store.reader import InfluenceStore, open_store, opened


def record_fidelity(store: InfluenceStore, measured: Sequence[MeasuredFidelity]) -> InfluenceStore:
    """Put what retraining said of a store's scores into its manifest, in place of what stood there.

    Returns:
        The store, opened anew; every answer from it now carries the figures.

    Raises:
        StoreError: the place cannot be written to.
    """
    group, manifest, _ = opened(store.place, read_only=False)
    manifest = Manifest.model_validate({**manifest.model_dump(), "fidelity": tuple(measured)})
    with clear_errors(store.url):
        group.attrs.update(manifest.attributes())
    return open_store(store.url, options=store.place.options)
