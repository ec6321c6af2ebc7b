"""Guards of the bridge that stand alone: a used key never answers for another order."""

from pathlib import Path

from resources.mt5.bridge.answers import Answer, Kind
from resources.mt5.bridge.keys import KeyStore


def test_the_answer_to_a_key_is_told_to_the_very_same_order_only(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys.sqlite")
    try:
        keys.claim("77", 5, 1, "buy 0.1")
        keys.record("77", 5, Answer(Kind.ACCEPTED, 10009, 8, 9, 0.1, 1.1))
        same, other = keys.seen("77", 5, "buy 0.1"), keys.seen("77", 5, "buy 1.0")
        assert same is not None
        assert same.kind is Kind.ACCEPTED
        assert other is not None
        assert other.kind is Kind.UNKNOWN
        assert keys.seen("78", 5, "buy 0.1") is None, "another account's keys are others"
    finally:
        keys.close()
