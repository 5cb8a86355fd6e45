"""Tables that people write: CSV, TSV and JSON Lines as records of text, each with the line that it starts in."""

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from spooftrace.data_scripts.protocol import Problems, not_utf8, read_lines


DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITERS, *JSON_LINES)


class Table(NamedTuple):
    """
    A table as text.

    Args:
        columns: names in their order.
        records: line number, counted from 1, and the cells by column; an empty text where there is nothing.
    """

    columns: list[str]
    records: list[tuple[int, dict[str, str]]]


def read_table(problems: Problems) -> Table:
    """
    The table that `problems` is about, by the ending of its name: `.csv` and `.tsv` with a header and quoting as in
    RFC 4180, `.jsonl` and `.ndjson` with one JSON object per line.

    A byte order mark, Windows line ends and empty lines are no matter. What else is wrong goes to `problems`.

    Raises:
        FileNotFoundError: without the file.
        ProtocolError: for a file that is not UTF-8 text.
    """
    suffix = problems.path.suffix.lower()
    if suffix in DELIMITERS:
        return read_csv(problems, DELIMITERS[suffix])
    if suffix in JSON_LINES:
        return read_json_lines(problems)
    problems.add(0, f"ending {suffix!r} is not known: give one of {', '.join(TABLE_SUFFIXES)}")
    return Table([], [])


def read_csv(problems: Problems, delimiter: str = ",") -> Table:
    """Reads a table whose first line names the columns; white space around names goes, around cells it stays."""
    rows = csv_rows(problems, delimiter)
    first = next(rows, None)
    if first is None:
        problems.add(0, "nothing in it: the first line names the columns")
        return Table([], [])
    columns = [name.strip() for name in first[1]]
    _check_header(problems, first[0], columns, delimiter)
    records = [
        (line, dict(zip(columns, cells, strict=True)))
        for line, cells in rows
        if problems.check_fields(line, cells, [len(columns)], ", ".join(columns))
    ]
    return Table(columns, records)


def csv_rows(problems: Problems, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """
    First line and cells of every row that is not blank, the header included.

    Ends at the first thing that is no CSV, which is a problem: what comes after would be guesswork.
    """
    with open(problems.path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(_text(problems, stream), delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problems.add(line, f'no CSV from here on ({error}): a text with quotes in it is "a ""b"" c"')
                return
            if cells is None:
                return
            if any(cell.strip() for cell in cells):
                yield line, cells


def _text(problems: Problems, lines: Iterable[str]) -> Iterator[str]:
    try:
        for number, line in enumerate(lines, start=1):
            if "\0" in line:
                problems.add(number, "holds a NUL byte: this is no text, or not UTF-8; save it as UTF-8")
                return
            yield line
    except UnicodeDecodeError as error:
        raise not_utf8(problems.path, error) from error


def _check_header(problems: Problems, line: int, columns: list[str], delimiter: str) -> None:
    if "" in columns:
        problems.add(line, f"column {columns.index('') + 1} has no name: name it, or remove it")
    for name in dict.fromkeys(name for name in columns if name and columns.count(name) > 1):
        problems.add(line, f"column {name!r} is there {columns.count(name)} times: rename or remove the others")
    others = [other for other in ",;\t" if other != delimiter and other in columns[0]]
    if len(columns) == 1 and others:
        problems.add(line, f"columns are divided by {others[0]!r}: divide them by {delimiter!r}")


def read_json_lines(problems: Problems) -> Table:
    """Reads objects whose values are texts, numbers, booleans or null, all of which come back as text."""
    columns: dict[str, None] = {}
    records = []
    for line, text in read_lines(problems.path):
        record = _record(problems, line, text)
        if record is not None:
            columns.update(dict.fromkeys(record))
            records.append((line, record))
    if not records:
        problems.add(0, "no record in it: give one JSON object per line")
    return Table(list(columns), records)


def _record(problems: Problems, line: int, text: str) -> dict[str, str] | None:
    try:
        value = parse_json(text)
    except ValueError as error:
        problems.add(line, f"not JSON ({error})")
        return None
    if not isinstance(value, dict):
        problems.add(line, f'{type(value).__name__} instead of an object: write {{"audio": ..., "label": ...}}')
        return None
    nested = [name for name, item in value.items() if isinstance(item, (dict, list))]
    for name in nested:
        problems.add(line, f"{name!r} holds more than one value: give a text, a number or null")
    return None if nested else {name.strip(): _as_text(item) for name, item in value.items()}


def parse_json(text: str) -> Any:
    """
    A JSON value; a name that is there twice, and `NaN`, which is no JSON, are refused.

    Raises:
        ValueError: for text that is no JSON, or nested too deeply.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair: it stands for no character") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name.strip() for name, _ in pairs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{', '.join(map(repr, sorted(twice)))} is there twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON: write null")


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
