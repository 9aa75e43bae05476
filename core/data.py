"""Ratings: the seeded generator, and any CSV or Parquet file, checked before use."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from core import artifacts
from core.config import GENERATED
from core.errors import BadInput

SCHEMA = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
REQUIRED = ("user_id", "item_id", "rating")
MAX_ID_LENGTH = 512
META_URI, META_SHA256 = "bench.dataset_uri", "bench.dataset_sha256"
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
_FORMAT_HINT = "the first line of a CSV is user_id,item_id,rating or user_id,item_id,rating,timestamp"


@dataclass(frozen=True)
class Dataset:
    """Checked ratings, with the URI and digest of where they came from.

    `ratings` has one row per (user_id, item_id), sorted by both: columns as in SCHEMA, `timestamp`
    (seconds since the epoch) only if the source had it.
    """

    uri: str
    sha256: str
    ratings: pl.DataFrame


def load(uri: str, *, seed: int, n_books: int) -> Dataset:
    """The dataset behind `uri`: generated, or read and checked.

    Raises:
        BadInput: if the file is missing, malformed or breaks the schema; names row and column.
        StoreError: if the store does not answer.
    """
    if uri == GENERATED:
        ratings = generate(seed=seed, n_books=n_books)
        return Dataset(f"{GENERATED}?seed={seed}&n_books={n_books}", content_digest(ratings), ratings)
    content = artifacts.read(uri)
    return Dataset(artifacts.as_uri(uri), artifacts.sha256_of(content), parse(content, uri))


def generate(*, seed: int, n_books: int, ratings_per_user: int = 12) -> pl.DataFrame:
    """A bookstore: `n_books` items in genres, five users an item, each user mostly reading one genre.

    The same seed gives the same table on any host: integers from PCG64 only, no floating-point sums.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    n_users = 5 * n_books
    n_genres = max(1, n_books // 20)
    users = np.repeat(np.arange(n_users), ratings_per_user)
    genre = rng.integers(0, n_genres, size=n_users)[users]
    strays = rng.integers(0, 10, size=users.size) < 2
    genre = np.where(strays, rng.integers(0, n_genres, size=users.size), genre)
    shelf = (n_books - genre + n_genres - 1) // n_genres  # books whose number is `genre` modulo n_genres
    first, second = rng.integers(0, shelf), rng.integers(0, shelf)
    items = genre + n_genres * np.minimum(first, second)  # the smaller of two draws: some books sell best
    items[::ratings_per_user] = np.arange(n_users) % n_books  # a user's first: no book stays unread
    table = pl.DataFrame(
        {
            "user_id": [f"user-{user:06d}" for user in users],
            "item_id": [f"book-{item:06d}" for item in items],
            "rating": rng.integers(1, 6, size=users.size).astype(np.float64),
            "timestamp": 1_700_000_000 + rng.integers(0, 90 * 86_400, size=users.size),
        },
        schema=SCHEMA,
    )
    return _canonical(table)


def parse(content: bytes, uri: str) -> pl.DataFrame:
    """The ratings in a CSV or Parquet file's bytes; `uri` tells the format and is named in errors.

    Raises:
        BadInput: naming row (a CSV's header is row 1; a Parquet's first record is row 1) and column.
    """
    suffix = urlsplit(uri).path.rpartition(".")[2].lower()
    if not content:
        raise BadInput(f"{uri} is empty", next_step=_FORMAT_HINT)
    if suffix == "csv":
        return _canonical(_check(_read_csv(content, uri), uri, first_row=2))
    if suffix in ("parquet", "pq"):
        return _canonical(_check(_read_parquet(content, uri), uri, first_row=1))
    raise BadInput(f"{uri} is neither .csv nor .parquet", next_step="convert it, or rename it")


def content_digest(ratings: pl.DataFrame) -> str:
    """sha256 of the table as CSV text: the same for the same ratings, whatever file held them."""
    return artifacts.sha256_of(ratings.write_csv().encode())


def to_parquet(source: Dataset) -> bytes:
    """The ratings as one Parquet file, with the source's URI and digest in its metadata."""
    buffer = io.BytesIO()
    source.ratings.write_parquet(
        buffer,
        compression="zstd",
        statistics=False,
        metadata={META_URI: source.uri, META_SHA256: source.sha256},
    )
    return buffer.getvalue()


def origin(content: bytes) -> tuple[str, str]:
    """URI and digest of the source that `to_parquet` wrote down; empty texts if the file has none."""
    metadata = pl.read_parquet_metadata(io.BytesIO(content))
    return metadata.get(META_URI, ""), metadata.get(META_SHA256, "")


def _read_csv(content: bytes, uri: str) -> pl.DataFrame:
    header = content.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip()
    _check_columns([name.strip().strip('"') for name in header.split(",")], uri, row=" (row 1)")
    try:
        return pl.read_csv(io.BytesIO(content), infer_schema=False)
    except _UNREADABLE as error:
        row = _bad_row(content, header.count(",") + 1)
        where = f" row {row}:" if row else ""
        reason = str(error).splitlines()[0]
        raise BadInput(f"{uri}:{where} not readable as CSV: {reason}", next_step=_FORMAT_HINT) from error


def _bad_row(content: bytes, columns: int) -> int | None:
    """The first row that has another number of cells than the header, or is not UTF-8."""
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return number
    text = io.StringIO(content.decode("utf-8"), newline="")
    for number, row in enumerate(csv.reader(text), start=1):
        if row and len(row) != columns:
            return number
    return None


def _read_parquet(content: bytes, uri: str) -> pl.DataFrame:
    try:
        table = pl.read_parquet(io.BytesIO(content))
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"{uri} is not readable as Parquet: {reason}", next_step=_FORMAT_HINT) from error
    _check_columns(table.columns, uri, row="")
    if table.schema.get("timestamp") in (pl.Date, pl.Datetime):
        table = table.with_columns(pl.col("timestamp").dt.epoch("s"))
    try:
        return table.with_columns([pl.col(name).cast(pl.String) for name in table.columns if name in SCHEMA])
    except _UNREADABLE as error:
        raise BadInput(f"{uri}: {str(error).splitlines()[0]}", next_step=_FORMAT_HINT) from error


def _check_columns(names: list[str], uri: str, *, row: str) -> None:
    for name in REQUIRED:
        if name not in names:
            found = ", ".join(names[:8])
            raise BadInput(f"{uri}{row}: column {name} is missing; found {found}", next_step=_FORMAT_HINT)
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{uri}{row}: column {name} appears twice", next_step=_FORMAT_HINT)


def _check(text: pl.DataFrame, uri: str, *, first_row: int) -> pl.DataFrame:
    """Typed columns, or the first offending cell."""
    if text.height == 0:
        raise BadInput(f"{uri} has no ratings, only a header", next_step=_FORMAT_HINT)
    names = [name for name in SCHEMA if name in text.columns]
    typed = text.select([pl.col(name).cast(SCHEMA[name], strict=False) for name in names])
    for name in names:
        column = typed[name]
        if name == "rating":
            bad = column.is_null() | ~column.is_finite().fill_null(value=False)
            expected = "a finite number"
        elif name == "timestamp":
            bad = column.is_null()
            expected = "whole seconds since 1970"
        else:
            bad = column.is_null() | (column.str.len_bytes() == 0) | (column.str.len_bytes() > MAX_ID_LENGTH)
            expected = f"a text of 1 to {MAX_ID_LENGTH} bytes"
        if bad.any():
            row = int(bad.arg_true()[0])
            _refuse(uri, row + first_row, name, text[name][row], expected, int(bad.sum()))
    if typed["item_id"].n_unique() < 2:
        raise BadInput(f"{uri}: column item_id: one item only; co-occurrence needs two", next_step="add data")
    return typed


def _refuse(uri: str, row: int, column: str, value: Any, expected: str, count: int) -> None:
    more = f" ({count} such rows)" if count > 1 else ""
    raise BadInput(
        f"{uri}: row {row}, column {column}: {value!r} is not {expected}{more}",
        kept="the file as it is; no run artifact was written",
        next_step="correct that row and start the step again",
    )


def _canonical(ratings: pl.DataFrame) -> pl.DataFrame:
    """One row per (user, item), the last rated (highest timestamp, then rating), sorted by both."""
    order = ["user_id", "item_id", *[name for name in ("timestamp", "rating") if name in ratings.columns]]
    return ratings.sort(order).unique(["user_id", "item_id"], keep="last", maintain_order=True)
