from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_attr.config import CorpusConfig
from dist_attr.corpus import Document, load_documents
from dist_attr.errors import CorpusError
from tests.corpus.conftest import ROWS

Write = Callable[[list[Any]], str]

DOCUMENTS = [Document(row["id"], row["text"], row["source"], {"year": row["year"]}) for row in ROWS]
JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def load(path: str, **fields: str) -> list[Document]:
    return load_documents(CorpusConfig(path=path, **fields))


def refusal(path: str, **fields: str) -> str:
    with pytest.raises(CorpusError) as caught:
        load(path, **fields)
    return str(caught.value)


def test_json_lines_become_documents_in_their_order(jsonl: Write) -> None:
    assert load(jsonl(ROWS)) == DOCUMENTS


def test_compressed_json_lines_are_the_same_documents(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(JSON_LINES))
    assert load(str(path)) == DOCUMENTS


def test_parquet_is_the_same_documents(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)
    assert load(str(path)) == DOCUMENTS


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_any_fsspec_url_is_read(suffix: str) -> None:
    url = f"memory://corpus-tests/corpus.{suffix}"
    with fsspec.open(url, "wb") as file:
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), file)
        else:
            file.write(JSON_LINES)
    assert load(url) == DOCUMENTS


def test_file_urls_are_read(jsonl: Write) -> None:
    assert load(f"file://{jsonl(ROWS)}") == DOCUMENTS


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + JSON_LINES.replace(b"\n", b"\r\n \r\n"))
    assert load(str(path)) == DOCUMENTS


def test_fields_are_named_by_the_configuration(jsonl: Write) -> None:
    rows = [{"url": f"u{number}", "body": "x", "site": site, "id": 7} for number, site in enumerate("ab")]
    documents = load(jsonl(rows), id_field="url", text_field="body", source_field="site")
    assert documents[1] == Document("u1", "x", "b", {"id": 7})


def test_numeric_ids_and_sources_become_text(jsonl: Write) -> None:
    documents = load(jsonl([{"id": 1, "text": "x", "source": 10}, {"id": 2, "text": "y", "source": 20}]))
    assert [(document.id, document.source) for document in documents] == [("1", "10"), ("2", "20")]


def test_one_field_may_be_id_and_source(jsonl: Write) -> None:
    assert [document.source for document in load(jsonl(ROWS), source_field="id")] == ["a1", "b1", "a2"]


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "absent.jsonl does not exist; check corpus.path" in refusal(str(tmp_path / "absent.jsonl"))


def test_unknown_protocol_is_named() -> None:
    assert "nowhere://corpus.jsonl cannot be opened: Protocol not known" in refusal("nowhere://corpus.jsonl")


def test_unknown_kind_of_file_names_the_known_ones() -> None:
    assert "ends in .jsonl, .jsonl.gz or .parquet" in refusal("corpus.csv")


@pytest.mark.parametrize("cut", [5, -10])
def test_damaged_gzip_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(JSON_LINES)[:cut])
    assert "corpus.jsonl.gz cannot be read" in refusal(str(path))


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    assert "corpus.parquet cannot be read" in refusal(str(path))


def test_other_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(JSON_LINES + '{"id": "c", "text": "café", "source": "s"}\n'.encode("latin-1"))
    assert "corpus.jsonl, line 4: not UTF-8" in refusal(str(path))


def test_line_that_is_not_json_is_named(jsonl: Write) -> None:
    assert "corpus.jsonl, line 3: not JSON" in refusal(jsonl([ROWS[0], "", '{"id": "b1", "te']))


def test_line_that_is_not_an_object_is_named(jsonl: Write) -> None:
    assert "line 2: a JSON list, not an object" in refusal(jsonl([ROWS[0], "[1, 2]"]))


@pytest.mark.parametrize("field", ["id", "text", "source"])
def test_missing_field_is_named_with_the_fields_there_are(jsonl: Write, field: str) -> None:
    row = {name: value for name, value in ROWS[1].items() if name != field}
    message = refusal(jsonl([ROWS[0], row]))
    assert f"line 2: there is no field {field!r}; the fields there are: {', '.join(map(repr, row))}" in message
    assert f"set corpus.{field}_field" in message


@pytest.mark.parametrize("field", ["id", "text", "source"])
def test_null_field_is_named(jsonl: Write, field: str) -> None:
    assert f"line 2: the field {field!r} is empty" in refusal(jsonl([ROWS[0], ROWS[1] | {field: None}]))


def test_parquet_rows_are_counted_over_all_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    pq.write_table(pa.Table.from_pylist([*ROWS, ROWS[0] | {"id": None}]), path, row_group_size=2)
    assert "corpus.parquet, row 4: the field 'id' is empty" in refusal(str(path))


def test_missing_number_of_a_table_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "corpus.parquet"
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "source": [1.0, float("nan")]})
    pq.write_table(table, path)
    assert "row 2: the field 'source' is empty" in refusal(str(path))


@pytest.mark.parametrize("field", ["id", "text", "source"])
@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_blank_field_is_refused(jsonl: Write, field: str, blank: str) -> None:
    assert f"line 2: {field!r} is blank" in refusal(jsonl([ROWS[0], ROWS[1] | {field: blank}]))


def test_text_that_is_a_number_is_refused(jsonl: Write) -> None:
    message = refusal(jsonl([ROWS[0], ROWS[1] | {"text": 3}]))
    assert "line 2: the text in 'text' is of type int; it must be a string" in message


@pytest.mark.parametrize("field", ["id", "source"])
def test_name_that_is_a_list_is_refused(jsonl: Write, field: str) -> None:
    message = refusal(jsonl([ROWS[0], ROWS[1] | {field: ["x"]}]))
    assert f"line 2: {field!r} is of type list; it must be a string or a number" in message


def test_half_a_surrogate_pair_is_refused(jsonl: Write) -> None:
    message = refusal(jsonl([ROWS[0], r'{"id": "b", "text": "\ud83d", "source": "s"}']))
    assert "line 2: 'text' is not valid Unicode" in message


def test_repeated_id_names_both_lines(jsonl: Write) -> None:
    message = refusal(jsonl([ROWS[0], ROWS[1], ROWS[0]]))
    assert "line 3: the id 'a1' was used before (" in message
    assert "corpus.jsonl, line 1)" in message


def test_ids_that_differ_only_in_type_are_the_same_id(jsonl: Write) -> None:
    assert "the id '1' was used before" in refusal(jsonl([ROWS[0] | {"id": 1}, ROWS[1] | {"id": "1"}]))


def test_empty_file_holds_no_documents(jsonl: Write) -> None:
    assert "corpus.jsonl holds no documents" in refusal(jsonl(["", " "]))


def test_a_single_source_cannot_be_attributed(jsonl: Write) -> None:
    message = refusal(jsonl([ROWS[0], ROWS[2]]))
    assert "all 2 documents have the source 'almanac'; attribution needs at least two sources" in message
