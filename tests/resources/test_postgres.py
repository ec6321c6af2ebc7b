"""What of the PostgreSQL adapter needs no server; the rest is in tests/integration/test_live_postgres.py."""

import psycopg
import pytest

from fx_dagster.errors import ServerError, SettingsError
from resources.postgres import SQL_FOLDER, arguments, connect, psycopg_url, unreachable
from resources.servers.ports import free_port


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("postgresql+psycopg2://u:p@h:5/db", "postgresql://u:p@h:5/db"),
        ("postgresql+psycopg://u@h/db", "postgresql://u@h/db"),
        ("postgres://h/db", "postgresql://h/db"),
        ("postgresql+psycopg2://postgres@/postgres?host=/a b/c", "postgresql://postgres@/postgres?host=/a b/c"),
        ("postgresql:///db?host=/s", "postgresql:///db?host=/s"),
    ],
)
def test_sqlalchemys_spelling_becomes_psycopgs(url: str, plain: str) -> None:
    assert psycopg_url(url) == plain


@pytest.mark.parametrize("url", ["", "h/db", "mysql://u:hidden@h/db", "postgresql+:hidden@h"])
def test_another_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="FX_POSTGRES_URL") as caught:
        psycopg_url(url)
    assert "hidden" not in str(caught.value)


def test_every_call_gets_a_deadline() -> None:
    keywords = arguments("postgresql://h/db", name="x" * 99, connect_timeout_s=0.2, statement_timeout_s=1.5)
    assert keywords["connect_timeout"] == 2
    assert "statement_timeout=1500" in keywords["options"]
    assert "lock_timeout=1500" in keywords["options"]
    assert "search_path=fx,public" in keywords["options"]
    assert len(keywords["application_name"]) == 63


def test_no_server_is_one_line_with_a_mend_and_no_secret() -> None:
    with pytest.raises(ServerError, match="does not answer") as caught:
        connect(f"postgresql+psycopg2://u:hidden@127.0.0.1:{free_port()}/db")
    assert "\n" not in str(caught.value)
    assert "fx up" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_secret_in_psycopgs_own_words_is_hidden() -> None:
    text = str(unreachable(psycopg.OperationalError("bad dsn\n postgresql://u:hidden@h/db password=hidden host=h")))
    assert "hidden" not in text
    assert "host=h" in text


def test_sql_files_have_numbers_of_their_own() -> None:
    numbers = [file.name[:3] for file in SQL_FOLDER.glob("*.sql")]
    assert all(number.isdigit() for number in numbers)
    assert len(set(numbers)) == len(numbers) > 0
