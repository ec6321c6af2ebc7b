"""The simulated terminal against the real module's wheel: constants, functions, structures field by field."""

import inspect
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from resources.mt5 import structures
from resources.mt5.constants import Mt5Constants
from resources.mt5.simulated import SimulatedTerminal

LEFT_OUT = {"Buy", "Sell", "Close"}
"""They loop over requotes and set no magic."""
VERSION = "5.0.6231"
STRUCTURES = (
    "TradePosition", "TradeOrder", "TradeDeal", "TradeRequest", "OrderSendResult", "OrderCheckResult", "Tick",
    "BookInfo", "TerminalInfo", "AccountInfo", "SymbolInfo",
)  # fmt: skip


class Extension:
    """A Windows extension module, as far as its texts and tables of fields go."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        header = struct.unpack_from("<I", content, 60)[0]
        count = struct.unpack_from("<H", content, header + 6)[0]
        optional = struct.unpack_from("<H", content, header + 20)[0]
        self._base = struct.unpack_from("<Q", content, header + 48)[0]
        first = header + 24 + optional
        self._sections = [struct.unpack_from("<8xIIII", content, first + 40 * place) for place in range(count)]

    def _offset(self, address: int) -> int | None:
        relative = address - self._base
        for _, start, size, at in self._sections:
            if start <= relative < start + size:
                return relative - start + at
        return None

    def _address(self, offset: int) -> int:
        return next(
            self._base + start + offset - at for _, start, size, at in self._sections if at <= offset < at + size
        )

    def _text(self, address: int) -> str:
        offset = self._offset(address)
        assert offset is not None
        return self._content[offset : self._content.index(b"\0", offset)].decode("ascii")

    def fields(self, structure: str) -> tuple[str, ...]:
        """Return the fields of a named tuple: its description holds name, text, table of fields and their number."""
        name = self._content.index(b"\0" + structure.encode() + b"\0") + 1
        described = self._content.index(struct.pack("<Q", self._address(name)))
        _, _, table, count = struct.unpack_from("<QQQI", self._content, described)
        offset = self._offset(table)
        assert offset is not None
        return tuple(self._text(struct.unpack_from("<Q", self._content, offset + 16 * n)[0]) for n in range(count))

    def functions(self) -> set[str]:
        """Return the functions whose usage is written in it."""
        usages = re.findall(rb"\0([a-z][a-z_]+)\([^\0\n]*\)(?=[\0\n\r])", self._content)
        return {name.decode() for name in usages}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--platform", "win_amd64", "--python-version", "3.11",
        "--only-binary=:all:", "--disable-pip-version-check", "--retries", "0", "--timeout", "10",
        f"MetaTrader5=={VERSION}", "-d", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"the package index is out of reach: {done.stderr[-200:]}")
    return zipfile.ZipFile(wheels[0])


@pytest.fixture(scope="module")
def module_text(wheel: zipfile.ZipFile) -> str:
    return wheel.read("MetaTrader5/__init__.py").decode()


@pytest.fixture(scope="module")
def extension(wheel: zipfile.ZipFile) -> Extension:
    name = next(name for name in wheel.namelist() if Path(name).suffix == ".pyd")
    return Extension(wheel.read(name))


def test_every_constant_has_the_module_s_value(module_text: str) -> None:
    names = re.findall(r"^([A-Z][A-Z0-9_]+)\s*=\s*([-0-9xXA-Fa-f| ]+)", module_text, flags=re.MULTILINE)
    theirs = {name: sum(int(part, 0) for part in value.split("|")) for name, value in names}
    ours = {name: value for name, value in vars(Mt5Constants).items() if name.isupper()}
    assert len(theirs) > 200
    assert ours == theirs


def test_every_named_tuple_has_the_module_s_fields(extension: Extension) -> None:
    for name in STRUCTURES:
        assert getattr(structures, name)._fields == extension.fields(name), name


def test_every_function_of_the_module_is_there(extension: Extension, module_text: str) -> None:
    written_in_python = set(re.findall(r"^def ([A-Za-z]\w*)\(", module_text, flags=re.MULTILINE))
    assert written_in_python == LEFT_OUT
    theirs = extension.functions()
    assert {"order_send", "market_book_get", "history_deals_get", "last_error", "login"} <= theirs
    assert len(theirs) == 32
    for name in theirs:
        assert callable(getattr(SimulatedTerminal, name, None)), name


def test_named_arguments_have_the_module_s_names() -> None:
    expected = {
        "order_calc_margin": ["action", "symbol", "volume", "price"],
        "order_calc_profit": ["action", "symbol", "volume", "price_open", "price_close"],
        "history_deals_total": ["date_from", "date_to"],
        "order_send": ["request"],
        "order_check": ["request"],
        "market_book_add": ["symbol"],
        "login": ["login", "password", "server", "timeout"],
    }
    for name, arguments in expected.items():
        assert list(inspect.signature(getattr(SimulatedTerminal, name)).parameters)[1:] == arguments
