"""The influence store: one tangent per source in a Zarr v3 group, at any fsspec URL.

Design decisions:
- A row belongs to one source and lies in shards of its own: no two writers ever touch one object.
- A row counts only once its checksum and its step are written, the store only once its manifest says `complete`.
  What is half-written can be told from what is whole, and is never served.
- The manifest is JSON in the group's attributes, the sources table a Parquet file. Nothing is pickled; plain
  `zarr.open` and any Parquet reader read everything, and numbers are decoded by one product (`codecs`).
- The arrays must be what the manifest prescribes, to the last codec: nothing else is opened, however it came there.
- No URL is ever taken from a store.
"""

from dist_attr.store.basis import BasisManifest, BasisRows, StoredBasis, check_writable, open_basis, write_basis
from dist_attr.store.codecs import Codec, Encoded
from dist_attr.store.fidelity import record_fidelity
from dist_attr.store.manifest import FORMAT_VERSION, Descent, Manifest, MeasuredFidelity, ModelIdentity, Space
from dist_attr.store.places import Place
from dist_attr.store.reader import InfluenceStore, open_store, store_at
from dist_attr.store.removal import parts_of, remove_store
from dist_attr.store.table import SourceRecord
from dist_attr.store.transfer import copy_model, copy_store, merge_stores
from dist_attr.store.unfinished import UnfinishedStore
from dist_attr.store.writer import StoreWriter, manifest_at

__all__ = [
    "FORMAT_VERSION",
    "BasisManifest",
    "BasisRows",
    "Codec",
    "Descent",
    "Encoded",
    "InfluenceStore",
    "Manifest",
    "MeasuredFidelity",
    "ModelIdentity",
    "Place",
    "SourceRecord",
    "Space",
    "StoreWriter",
    "StoredBasis",
    "UnfinishedStore",
    "check_writable",
    "copy_model",
    "copy_store",
    "manifest_at",
    "merge_stores",
    "open_basis",
    "open_store",
    "parts_of",
    "record_fidelity",
    "remove_store",
    "store_at",
    "write_basis",
]
