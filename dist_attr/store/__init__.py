"""The influence store: one tangent per source in a Zarr v3 group, at any fsspec URL.

Design decisions:
- A row of `tangents` belongs to one source and lies in chunks of its own: no two writers ever touch one object.
- A row counts only once its checksum and its step are written, the store only once its manifest says `complete`.
  What is half-written can be told from what is whole, and is never served.
- The manifest is JSON in the group's attributes. Nothing is pickled; plain `zarr.open` reads everything.
"""

from dist_attr.store.manifest import FORMAT_VERSION, Descent, Manifest, ModelIdentity, SourceRecord, Space
from dist_attr.store.reader import InfluenceStore, open_store
from dist_attr.store.writer import StoreWriter

__all__ = [
    "FORMAT_VERSION",
    "Descent",
    "InfluenceStore",
    "Manifest",
    "ModelIdentity",
    "SourceRecord",
    "Space",
    "StoreWriter",
    "open_store",
]
