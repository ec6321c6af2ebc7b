"""The lake: one suite over every kind of storage, and what only a disk can do to it."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import FxError, LakeError
from fx_dagster.market.schemas import BAR_TYPES, TICK_TYPES
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, trading_month_window
from resources.lake import ASIDE, Lake

JANUARY, JANUARY_END = trading_month_window("2017-01")


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path):
    if request.param == "folder":
        # Spaces, quotes and pattern characters mean something to a shell, to SQL and to a glob.
        yield str(tmp_path / "a lake's [new] *home?")
        return
    root = f"memory://lake-{uuid.uuid4().hex}"
    yield root
    filesystem, path = fsspec.core.url_to_fs(root)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@pytest.fixture
def lake(url: str) -> Lake:
    return Lake(url)


def bars(start: int = JANUARY, rows: int = 5, price: float = 1.1) -> pd.DataFrame:
    time = start + np.arange(rows, dtype=np.int64) * HOUR_NS
    columns = {
        "open": price,
        "high": price + 0.01,
        "low": price - 0.01,
        "close": price,
        "tick_volume": 7.0,
        "spread": 10.0,
    }
    return pd.DataFrame({"time": time, **columns})


def write_months(
    lake: Lake, symbol: str = "EURUSD", months: tuple[str, ...] = ("2017-02", "2017-01", "2017-03")
) -> None:
    for month in months:
        lake.write("bars", bars(trading_month_window(month)[0]), symbol=symbol, timeframe="H1", month=month)


class TestWriteAndRead:
    def test_gives_back_what_was_written(self, lake: Lake):
        path = lake.write("bars", bars(), symbol="EURUSD", timeframe="H1", month="2017-01")
        assert path.endswith("/bars/symbol=EURUSD/timeframe=H1/month=2017-01/data.parquet")
        pd.testing.assert_frame_equal(lake.read("bars", symbol="EURUSD", timeframe="H1"), bars())

    def test_folders_follow_the_order_of_the_keys_not_of_the_call(self, lake: Lake):
        assert "symbol=A1/timeframe=H1/month=2017-01" in lake.write(
            "bars", bars(), month="2017-01", timeframe="H1", symbol="A1"
        )

    def test_replaces_a_file_as_a_whole(self, lake: Lake):
        lake.write("bars", bars(rows=9), symbol="EURUSD", timeframe="H1", month="2017-01")
        lake.write("bars", bars(rows=2, price=2.0), symbol="EURUSD", timeframe="H1", month="2017-01")
        pd.testing.assert_frame_equal(lake.read("bars", symbol="EURUSD"), bars(rows=2, price=2.0))

    def test_sorts_by_time_over_files(self, lake: Lake):
        write_months(lake)
        time = lake.read("bars", symbol="EURUSD", timeframe="H1")["time"]
        assert len(time) == 15
        assert time.is_monotonic_increasing

    def test_keeps_the_order_of_rows_of_one_time(self, lake: Lake):
        ticks = pd.DataFrame({"time": np.array([2, 1, 1, 1]), "bid": [9.0, 1.0, 3.0, 2.0]})
        lake.write("raw", ticks, symbol="EURUSD")
        assert lake.read("raw", symbol="EURUSD")["bid"].tolist() == [1.0, 3.0, 2.0, 9.0]

    def test_bounds_are_half_open(self, lake: Lake):
        write_months(lake)
        time = bars()["time"]
        read = lake.read("bars", symbol="EURUSD", start=int(time[1]), end=int(time[3]))
        assert read["time"].tolist() == time[1:3].tolist()

    def test_finds_rows_that_open_before_the_month_in_which_they_close(self, lake: Lake):
        monthly = bars(JANUARY, rows=1)
        lake.write("bars", monthly, symbol="EURUSD", timeframe="MN1", month="2017-02")
        found = lake.read("bars", symbol="EURUSD", timeframe="MN1", start=JANUARY, end=JANUARY + DAY_NS)
        assert len(found) == 1

    def test_reads_only_the_files_of_the_range(self, lake: Lake, url: str):
        write_months(lake, months=("2016-01", "2017-01", "2018-01"))
        filesystem, root = fsspec.core.url_to_fs(url)
        for month in ("2016-01", "2018-01"):
            filesystem.pipe_file(f"{root}/bars/symbol=EURUSD/timeframe=H1/month={month}/data.parquet", b"broken")
        assert len(lake.read("bars", symbol="EURUSD", start=JANUARY, end=JANUARY_END)) == 5
        with pytest.raises(LakeError):
            lake.read("bars", symbol="EURUSD")

    def test_chooses_columns_even_where_it_must_read_more_to_choose_rows(self, lake: Lake):
        write_months(lake)
        read = lake.read("bars", symbol="EURUSD", columns=["close", "open"], start=JANUARY, end=JANUARY + HOUR_NS)
        assert read.columns.tolist() == ["close", "open"]
        assert len(read) == 1

    def test_adds_the_symbol_where_it_is_left_open(self, lake: Lake):
        write_months(lake, "EURUSD", ("2017-01",))
        write_months(lake, "XAUUSD", ("2017-01",))
        read = lake.read("bars", timeframe="H1")
        assert read.columns.tolist() == [*BAR_TYPES, "symbol"]
        assert read["symbol"].value_counts().to_dict() == {"EURUSD": 5, "XAUUSD": 5}
        assert "symbol" not in lake.read("bars", columns=["time"])
        assert set(lake.read("bars", columns=["symbol", "month"])["month"]) == {"2017-01"}

    def test_files_without_rows_change_no_type(self, lake: Lake):
        lake.write("bars", bars().head(0).astype(object), symbol="EURUSD", timeframe="H1", month="2016-12")
        write_months(lake, months=("2017-01",))
        pd.testing.assert_frame_equal(lake.read("bars", symbol="EURUSD"), bars())

    @pytest.mark.parametrize(("table", "types"), [("ticks", TICK_TYPES), ("bars", BAR_TYPES)])
    def test_nothing_is_an_empty_frame_with_the_tables_types(self, lake: Lake, table: str, types: dict[str, str]):
        read = lake.read(table, symbol="EURUSD", start=JANUARY, end=JANUARY_END)
        assert {name: str(kind) for name, kind in read.dtypes.items()} == types
        assert read.empty
        assert lake.read("features", columns=["time", "rsi"]).columns.tolist() == ["time", "rsi"]

    def test_names_the_column_that_is_not_there(self, lake: Lake):
        write_months(lake, months=("2017-01",))
        with pytest.raises(LakeError, match=r"month=2017-01/data\.parquet: no column bid → columns are time, open"):
            lake.read("bars", symbol="EURUSD", columns=["bid"])

    def test_keeps_texts_and_counts_rows(self, lake: Lake):
        lake.write("features", bars(), metadata={"feature_hash": "ab'c", "umlaut": "ü"}, symbol="EURUSD")
        assert lake.metadata("features", symbol="EURUSD") == {"feature_hash": "ab'c", "umlaut": "ü"}
        assert lake.rows("features", symbol="EURUSD") == 5

    def test_a_missing_file_says_what_to_make(self, lake: Lake):
        with pytest.raises(LakeError, match="no such file → materialise features"):
            lake.metadata("features", symbol="EURUSD")


class TestKeys:
    def test_lists_tables_and_keys(self, lake: Lake):
        assert lake.tables() == []
        write_months(lake)
        lake.write("predictions", bars())
        assert lake.tables() == ["bars", "predictions"]
        assert [keys["month"] for keys in lake.keys("bars")] == ["2017-01", "2017-02", "2017-03"]
        assert lake.keys("predictions") == [{}]

    def test_deletes_what_matches_and_nothing_else(self, lake: Lake):
        write_months(lake)
        write_months(lake, "XAUUSD")
        assert lake.delete("bars", symbol="EURUSD", month="2017-02") == 1
        assert lake.delete("bars", symbol="XAUUSD") == 3
        assert [keys["month"] for keys in lake.keys("bars")] == ["2017-01", "2017-03"]
        assert lake.delete("bars", symbol="GBPUSD") == 0

    @pytest.mark.parametrize(
        "keys",
        [
            {"symbol": "../../etc"},
            {"symbol": "A/B"},
            {"symbol": "A\0B"},
            {"symbol": "EURUSD'"},
            {"symbol": "EURUSD\n"},
            {"symbol": "EU..USD"},
            {"symbol": ""},
            {"symbol": "E" * 30},
            {"month": "2017-13"},
            {"month": "2017-01/x"},
            {"timeframe": "H1=2"},
            {"day": "2017-01-01"},
        ],
    )
    def test_refuses_keys_that_could_leave_their_folder(self, lake: Lake, keys: dict[str, str]):
        for action in (lambda: lake.write("bars", bars(), **keys), lambda: lake.delete("bars", **keys)):
            with pytest.raises(LakeError, match=r"impossible|no key"):
                action()
        assert lake.tables() == []

    @pytest.mark.parametrize("table", ["../bars", "bars;drop", "", 'b"', "bars\n", ASIDE])
    def test_refuses_impossible_tables(self, lake: Lake, table: str):
        with pytest.raises(LakeError, match="impossible table name"):
            lake.write(table, bars())

    def test_takes_every_name_that_the_catalogue_may_hold(self, lake: Lake):
        for symbol in ("EURUSD", "SIM001", "EURUSD.m", "#EURUSD", "EUR_USD-pro+"):
            lake.write("bars", bars(), symbol=symbol, timeframe="MN1", month="2017-12")
            assert len(lake.read("bars", symbol=symbol)) == 5
        assert len(lake.query("SELECT DISTINCT symbol FROM bars")) == 5


class TestCorruption:
    @pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\0" * 64 + b"PAR1"])
    def test_names_the_file_and_the_mend(self, lake: Lake, url: str, content: bytes):
        path = lake.write("bars", bars(), symbol="EURUSD", timeframe="H1", month="2017-01")
        fsspec.core.url_to_fs(url)[0].pipe_file(path, content)
        calls = (
            lambda: lake.read("bars", symbol="EURUSD"),
            lambda: lake.metadata("bars", symbol="EURUSD", timeframe="H1", month="2017-01"),
            lambda: lake.rows("bars", symbol="EURUSD", timeframe="H1", month="2017-01"),
            lambda: lake.query("SELECT * FROM bars"),
        )
        for call in calls:
            with pytest.raises(LakeError, match=r"month=2017-01/data\.parquet") as caught:
                call()
            assert caught.value.mend

    def test_notices_a_flipped_bit_in_the_values(self, lake: Lake, url: str):
        frame = pd.DataFrame({"time": np.random.default_rng(1).integers(0, 2**60, 5_000)})
        path = lake.write("raw", frame, symbol="EURUSD")
        filesystem = fsspec.core.url_to_fs(url)[0]
        content = bytearray(filesystem.cat_file(path))
        content[len(content) // 2] ^= 4
        filesystem.pipe_file(path, bytes(content))
        with pytest.raises(LakeError, match="not a readable Parquet file"):
            lake.read("raw", symbol="EURUSD")


class TestQuery:
    def test_sees_every_table_with_its_keys(self, lake: Lake):
        write_months(lake)
        lake.write("labels", bars()[["time"]].assign(up=1), symbol="EURUSD", month="2017-01")
        found = lake.query(
            """SELECT b.symbol, b.timeframe, b.month, count(*) AS n FROM BARS b JOIN labels l USING (time, symbol)
               WHERE b.symbol = $symbol GROUP BY ALL""",
            {"symbol": "EURUSD"},
        )
        assert found.to_dict("records") == [{"symbol": "EURUSD", "timeframe": "H1", "month": "2017-01", "n": 5}]

    def test_parameters_are_values_whatever_they_hold(self, lake: Lake):
        write_months(lake)
        sql = "SELECT count(*) AS n FROM bars WHERE symbol = $symbol"
        assert lake.query(sql, {"symbol": "EURUSD' OR '1'='1"})["n"].tolist() == [0]

    def test_unites_files_with_different_columns(self, lake: Lake):
        lake.write("bars", bars(), symbol="EURUSD", month="2017-01")
        lake.write("bars", bars().assign(extra=1.0), symbol="EURUSD", month="2017-02")
        lake.write("bars", bars().head(0), symbol="EURUSD", month="2017-03")
        assert lake.query("SELECT count(extra) AS some, count(*) AS every FROM bars").iloc[0].tolist() == [5, 10]

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM read_csv('/etc/passwd')",
            "SELECT * FROM read_text('/etc/passwd')",
            "SELECT 1; SELECT 2",
            "DROP VIEW bars",
            "COPY (SELECT 1) TO 'stolen.csv'",
            "ATTACH 'other.db'",
            "SET enable_external_access = true",
            "INSTALL httpfs",
            "SELECT * FROM nowhere",
            "SELEC",
            "",
        ],
    )
    def test_reads_the_lake_and_nothing_else(
        self, lake: Lake, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        write_months(lake, months=("2017-01",))
        with pytest.raises(LakeError) as caught:
            lake.query(sql)
        assert caught.value.mend
        assert not list(tmp_path.glob("*.csv"))
        assert not list(tmp_path.glob("*.db"))

    def test_works_on_an_empty_lake(self, lake: Lake):
        assert lake.query("SELECT 42 AS answer")["answer"].tolist() == [42]


def _write_many(url: str, symbol: str) -> None:
    lake = Lake(url)
    for month in range(1, 13):
        lake.write("bars", bars(rows=50), symbol=symbol, timeframe="H1", month=f"2017-{month:02d}")
        lake.write("bars", bars(rows=50), symbol="SHARED", timeframe="H1", month="2017-01")


class TestOnDisk:
    def test_many_processes_write_at_once(self, tmp_path: Path):
        context = multiprocessing.get_context("spawn")
        symbols = ["SIM001", "SIM002", "SIM003"]
        workers = [context.Process(target=_write_many, args=(str(tmp_path / "lake"), symbol)) for symbol in symbols]
        for worker in workers:
            worker.start()
        lake = Lake(str(tmp_path / "lake"))
        while any(worker.is_alive() for worker in workers):
            # Whoever reads meanwhile sees whole files only.
            assert len(lake.read("bars", symbol="SHARED")) in {0, 50}
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert len(lake.keys("bars")) == 3 * 12 + 1
        assert all(len(lake.read("bars", symbol=symbol)) == 600 for symbol in symbols)
        assert not list((tmp_path / "lake" / ASIDE).iterdir())

    def test_no_space_leaves_the_old_file_and_nothing_else(self, tmp_path: Path):
        root = tmp_path / "lake"
        Lake(str(root)).write("bars", bars(), symbol="EURUSD", timeframe="H1", month="2017-01")
        # A limit on the size of files fails the write half-way, as a full disk does.
        script = textwrap.dedent(
            f"""
            import resource, numpy as np, pandas as pd
            from fx_dagster.errors import LakeError
            from resources.lake import Lake
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            frame = pd.DataFrame({{"time": np.random.default_rng(1).integers(0, 2**62, 50_000)}})
            for keys in ({{"month": "2017-01"}}, {{"month": "2017-02"}}):
                try:
                    Lake({str(root)!r}).write("bars", frame, symbol="EURUSD", timeframe="H1", **keys)
                except LakeError as error:
                    print(error)
            """
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        lines = done.stdout.splitlines()
        assert len(lines) == 2
        assert all("cannot be written (File too large) → free disk space" in line for line in lines)
        assert [path for path in root.rglob("*") if path.is_file()] == [
            root / "bars/symbol=EURUSD/timeframe=H1/month=2017-01/data.parquet"
        ]
        pd.testing.assert_frame_equal(Lake(str(root)).read("bars", symbol="EURUSD"), bars())

    def test_a_folder_that_is_a_file_is_an_error_of_the_lake(self, tmp_path: Path):
        (tmp_path / "lake").write_text("I was here first")
        with pytest.raises(LakeError, match="cannot be written") as caught:
            Lake(str(tmp_path / "lake")).write("bars", bars(), symbol="EURUSD")
        assert isinstance(caught.value, FxError)
        assert isinstance(caught.value, ValueError)

    def test_sweeps_what_a_killed_writer_left_long_ago(self, tmp_path: Path):
        aside = tmp_path / ASIDE
        aside.mkdir()
        (aside / "old").write_bytes(b"half")
        (aside / "new").write_bytes(b"half")
        os.utime(aside / "old", (0, 0))
        Lake(str(tmp_path)).write("bars", bars(), symbol="EURUSD")
        assert [path.name for path in aside.iterdir()] == ["new"]
        assert Lake(str(tmp_path)).tables() == ["bars"]
