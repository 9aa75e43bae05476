"""Ratings: the generator is reproducible, a bad file is refused with row and column."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from core import data
from core.errors import BadInput, BenchError

GOOD = "user_id,item_id,rating\nu1,a,5\nu1,b,3\nu2,a,4\nu2,b,1\n"


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    first, again = data.generate(seed=42, n_books=200), data.generate(seed=42, n_books=200)
    assert first.equals(again)
    assert data.content_digest(first) != data.content_digest(data.generate(seed=43, n_books=200))


def test_every_book_is_read_and_no_pair_repeats() -> None:
    table = data.generate(seed=42, n_books=200)
    assert table["item_id"].n_unique() == 200
    assert table.select("user_id", "item_id").is_unique().all()


def test_csv_and_parquet_of_the_same_ratings_are_the_same_data(tmp_path: Path) -> None:
    table = data.generate(seed=1, n_books=30)
    csv, parquet = tmp_path / "r.csv", tmp_path / "r.parquet"
    table.sample(fraction=1.0, shuffle=True, seed=3).write_csv(csv)
    table.write_parquet(parquet)
    one = data.load(str(csv), seed=0, n_books=2)
    other = data.load(parquet.as_uri(), seed=0, n_books=2)
    assert one.ratings.equals(other.ratings)
    assert one.sha256 != other.sha256  # digests are of the files


def test_integer_ids_and_datetimes_in_parquet_are_read(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pl.DataFrame(
        {"user_id": [1, 1], "item_id": [10, 11], "rating": [1, 2], "timestamp": [1_700_000_000] * 2}
    ).with_columns(pl.from_epoch("timestamp", time_unit="s")).write_parquet(path)
    ratings = data.load(str(path), seed=0, n_books=2).ratings
    assert ratings["item_id"].to_list() == ["10", "11"]
    assert ratings["timestamp"].to_list() == [1_700_000_000] * 2


def test_a_repeated_rating_keeps_the_latest() -> None:
    text = "user_id,item_id,rating,timestamp\nu,a,1,200\nu,a,5,100\nu,b,2,1\n"
    table = data.parse(text.encode(), "r.csv")
    assert table.filter(pl.col("item_id") == "a")["rating"].to_list() == [1.0]


def test_crlf_byte_order_mark_and_extra_columns_are_fine() -> None:
    text = "\ufeffuser_id,item_id,rating,note\r\nu1,a,5,x\r\nu1,b,3,\r\n"
    assert data.parse(text.encode(), "r.csv").height == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("u1,b,3", "u1,b,five"), r"row 3, column rating: 'five' is not a finite number"),
        (GOOD.replace("u1,b,3", "u1,b,nan"), r"row 3, column rating"),
        (GOOD.replace("u1,b,3", "u1,,3"), r"row 3, column item_id"),
        (GOOD.replace("u2,a,4", ",a,4"), r"row 4, column user_id"),
        (GOOD.replace("u2,a,4", "u2,a,4,9"), r"row 4:"),
        (GOOD.replace("rating", "stars"), r"\(row 1\): column rating is missing"),
        ("user_id,item_id,rating\n", "no ratings"),
        ("", "is empty"),
        ("user_id,item_id,rating,timestamp\nu,a,1,soon\nu,b,1,1\n", "row 2, column timestamp: 'soon'"),
        ("user_id,item_id,rating,rating\nu,a,1,2\n", "column rating appears twice"),
        ("user_id,item_id,rating\nu,a,1\nv,a,1\n", "co-occurrence needs two"),
        (GOOD.replace("u1,b,3", f"u1,{'b' * 600},3"), "row 3, column item_id"),
    ],
)
def test_a_malformed_csv_is_refused_by_row_and_column(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        data.parse(text.encode(), "bad.csv")


def test_bytes_that_are_not_utf8_are_refused_by_row() -> None:
    with pytest.raises(BadInput, match="row 3"):
        data.parse(GOOD.encode().replace(b"u1,b", b"u1,\xff\xfe"), "bad.csv")


def test_bytes_that_are_not_parquet_are_refused() -> None:
    with pytest.raises(BadInput, match="not readable as Parquet"):
        data.parse(b"PAR1 is not enough", "bad.parquet")


def test_missing_files_and_unknown_schemes_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file at"):
        data.load(str(tmp_path / "none.csv"), seed=0, n_books=2)
    with pytest.raises(BenchError, match="nosuch"):
        data.load("nosuch://x/r.csv", seed=0, n_books=2)


def test_the_parquet_file_remembers_its_source() -> None:
    source = data.load("bookstore://generated", seed=5, n_books=20)
    content = data.to_parquet(source)
    assert data.origin(content) == (source.uri, source.sha256)
    assert content == data.to_parquet(source)
