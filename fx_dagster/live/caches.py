"""What the four caches hold, under which keys, for how long, and how it is counted; no server is known here.

===  ===========  =======  ================================================  ==================================
L1   predictions  60 s     release, its manifest, feature hash, tensors      what the models said of one row
L2   features     5 min    feature hash, source, symbol                      the newest row of features
L3   patterns     1 h      feature hash, source                              what followed each chart pattern
L4   weights      1 day    SHA-256                                           a model's file
===  ===========  =======  ================================================  ==================================

What an entry depends on is in its key, so that a release can only ever find its own. In the shared cache an entry is a
seal and a body: the seal tells the version, when the body was made, and a digest of key, time and body. What is
damaged, of another version or was stored under another key does not open. Nothing is unpickled.
"""

import hashlib
import json
import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fx_dagster import snapshot
from fx_dagster.errors import DataError
from fx_dagster.models.answer import EXTRAS
from fx_dagster.models.inputs import TENSORS, ModelInputs
from fx_dagster.models.service import ModelAnswer
from fx_dagster.settings import CacheSettings

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
V = TypeVar("V")

PREFIX: Final = "fx1"
"""First part of every key in the shared cache, with the version of what is stored."""
POOLED: Final = ""
"""Symbol of a pattern's numbers over all symbols together."""
_MAGIC: Final = b"FXC1"
_SEAL: Final = struct.Struct(">4sq16s")
_AHEAD_NS_MAX: Final = 1_000_000_000
"""An entry from farther in the future was made by a clock that is wrong."""
_MEND: Final = "leave it out: it is computed again"
_MIB: Final = 1_048_576


class CacheClock(Protocol):
    """This machine's time."""

    def monotonic_ns(self) -> int:
        """Return a time that never goes back: ages in this process are measured by it."""
        ...

    def wall_ns(self) -> int:
        """Return ns since 1970, UTC: ages of what another process stored are measured by it."""
        ...


class Level(StrEnum):
    """The four levels."""

    PREDICTIONS = "predictions"
    FEATURES = "features"
    PATTERNS = "patterns"
    WEIGHTS = "weights"


def lifetimes_ns(settings: CacheSettings) -> dict[Level, int]:
    """Return for how long each level is believed."""
    seconds = {
        Level.PREDICTIONS: settings.predictions_s,
        Level.FEATURES: settings.features_s,
        Level.PATTERNS: settings.patterns_s,
        Level.WEIGHTS: settings.weights_s,
    }
    return {level: round(value * 1e9) for level, value in seconds.items()}


def is_fresh(age_ns: int, lifetime_ns: int) -> bool:
    """Whether an entry of that age is believed; one from the future is not."""
    return -_AHEAD_NS_MAX <= age_ns < lifetime_ns


class Event(StrEnum):
    """What is counted at each level."""

    MEMORY_HIT = "memory_hits"
    SERVER_HIT = "server_hits"
    MISS = "misses"
    """Neither this process nor, where it was asked, the server had it."""
    DROP = "drops"
    """Not written to the server: too much waited, the entry is too large, or the session ended."""
    ERROR = "errors"
    """The server did not answer, or what it answered could not be opened."""


class Counters:
    """Counts of each level's events; any thread may count."""

    def __init__(self) -> None:
        self._counts = {level: dict.fromkeys(Event, 0) for level in Level}
        self._lock = threading.Lock()

    def add(self, level: Level, event: Event, times: int = 1) -> None:
        """Count an event."""
        with self._lock:
            self._counts[level][event] += times

    def count(self, level: Level, event: Event) -> int:
        """Return how often it happened."""
        return self._counts[level][event]

    def rates(self) -> dict[str, dict[str, float | int | None]]:
        """Return the counts by level, and ``hit_rate``: hits of both kinds over questions; None: no question yet."""
        told: dict[str, dict[str, float | int | None]] = {}
        with self._lock:
            for level, counts in self._counts.items():
                hits = counts[Event.MEMORY_HIT] + counts[Event.SERVER_HIT]
                asked = hits + counts[Event.MISS]
                told[level.value] = {event.value: count for event, count in counts.items()}
                told[level.value]["hit_rate"] = hits / asked if asked else None
        return told


@dataclass(frozen=True)
class _Held:
    value: Any
    born_ns: int
    size: int


class MemoryLevel(Generic[V]):
    """Entries in this process, bounded in number, bytes and age; of too many, the least recently used go.

    Args:
        lifetime_ns: age at which an entry is gone.
        entries_max: most entries.
        bytes_max: most bytes, as far as their sizes were told.
    """

    def __init__(self, lifetime_ns: int, *, entries_max: int, bytes_max: int) -> None:
        self._lifetime_ns = lifetime_ns
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._bytes = 0
        self._newest_ns = -(2**63)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def get(self, key: str, now_ns: int) -> V | None:
        """Return an entry; None: there is none that is young enough."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            if not is_fresh(now_ns - held.born_ns, self._lifetime_ns):
                self._remove(key)
                return None
            self._held.move_to_end(key)
            value: V = held.value
            return value

    def put(self, key: str, value: V, *, born_ns: int, size: int) -> None:
        """Keep an entry that was made at ``born_ns``; one that is larger than everything may be is not kept."""
        with self._lock:
            self._remove(key)
            if size > self._bytes_max:
                return
            self._held[key] = _Held(value, born_ns, size)
            self._bytes += size
            self._newest_ns = max(self._newest_ns, born_ns)
            while len(self._held) > self._entries_max or self._bytes > self._bytes_max:
                self._remove(next(iter(self._held)))

    def is_empty(self, now_ns: int) -> bool:
        """Whether no entry is young enough."""
        return not self._held or now_ns - self._newest_ns >= self._lifetime_ns

    def discard(self, key: str) -> None:
        """Remove an entry, if it is there."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= held.size


def sealed(key: str, born_ns: int, body: bytes) -> bytes:
    """Return what is stored under ``key``: a seal and the body, made at ``born_ns`` (wall clock)."""
    return _SEAL.pack(_MAGIC, born_ns, _digest(key, born_ns, body)) + body


def opened(key: str, content: bytes) -> tuple[int, bytes]:
    """Return when the body was made, and the body.

    Raises:
        DataError: it is damaged, of another version, or was stored under another key.
    """
    if len(content) < _SEAL.size or not content.startswith(_MAGIC):
        raise DataError(f"{key}: not an entry of this version", mend=_MEND)
    _, born_ns, digest = _SEAL.unpack_from(content)
    body = content[_SEAL.size :]
    if digest != _digest(key, born_ns, body):
        raise DataError(f"{key}: damaged, or an entry of another key", mend=_MEND)
    return born_ns, body


def _digest(key: str, born_ns: int, body: bytes) -> bytes:
    name = key.encode()
    mixed = hashlib.blake2b(len(name).to_bytes(4, "big") + name + struct.pack(">q", born_ns), digest_size=16)
    mixed.update(body)
    return mixed.digest()


def _key(level: Level, *parts: object) -> str:
    return ":".join((PREFIX, level.value, *(str(part) for part in parts)))


@runtime_checkable
class Identified(Protocol):
    """A service that tells its release from every other one, also from one of the same number elsewhere."""

    @property
    def identity(self) -> str:
        """Digest of the release's manifest: of its models' files, its features and its symbols."""
        ...


def prediction_keys(
    inputs: ModelInputs, *, identity: str, release: int, feature_hash: str, whole: bool
) -> tuple[str, ...]:
    """Return the key of each row: of everything that the answer depends on, to the last bit of every tensor.

    Args:
        inputs: the rows, their symbols placed in the release.
        identity: digest of the release's manifest; a number alone may have been used by another installation.
        release: number of the release.
        feature_hash: of the feature catalogue.
        whole: whether the whole graph is asked.
    """
    if not len(inputs):
        return ()
    tensors = [np.ascontiguousarray(getattr(inputs, name), dtype=_dtype(name)) for name in TENSORS]
    shapes = json.dumps([tensor.shape[1:] for tensor in tensors]).encode()
    rows = [snapshot.as_bytes(tensor).reshape(len(inputs), -1) for tensor in tensors]
    start = _key(Level.PREDICTIONS, f"r{release}", identity, feature_hash, "whole" if whole else "simple")
    keys = []
    for place in range(len(inputs)):
        digest = hashlib.blake2b(shapes, digest_size=20)
        for row in rows:
            digest.update(row[place].data)
        keys.append(f"{start}:{digest.hexdigest()}")
    return tuple(keys)


def _dtype(name: str) -> np.dtype[Any]:
    # ModelInputs keeps times as ns; as a tensor they are days.
    return np.dtype(np.int64) if name == "time" else TENSORS[name]


@dataclass(frozen=True)
class PredictedRow:
    """What a release said of one row; the fields are those of :class:`ModelAnswer`, without its first axis."""

    models: tuple[str, ...]
    p_up: Float64
    extras: Float64
    explained: Mapping[str, Float64]
    release: int
    whole: bool

    @property
    def shape(self) -> tuple[Any, ...]:
        """What rows of one answer have in common."""
        widths = tuple((name, len(values)) for name, values in self.explained.items())
        return (self.models, widths, self.release, self.whole)

    @property
    def size(self) -> int:
        """Bytes, about."""
        return 512 + self.p_up.nbytes + self.extras.nbytes + sum(120 + one.nbytes for one in self.explained.values())


def rows_of(answer: ModelAnswer) -> list[PredictedRow]:
    """Return an answer's rows, as copies."""
    return [
        PredictedRow(
            answer.models,
            np.array(answer.p_up[place]),
            np.array(answer.extras[place]),
            {name: np.array(values[place]) for name, values in answer.explained.items()},
            answer.release,
            answer.whole,
        )
        for place in range(len(answer.p_up))
    ]


def answer_of(rows: Sequence[PredictedRow], latency_ms: float, doubted: ModelAnswer | None = None) -> ModelAnswer:
    """Return one answer of at least one row, all of one shape.

    Args:
        rows: in the order of the question.
        latency_ms: how long it took.
        doubted: the incomplete answer that some of the rows are of. What it discarded is absent from every row: a
            model that is wrong for one symbol is not believed for another.
    """
    first = rows[0]
    p_up, extras = np.stack([row.p_up for row in rows]), np.stack([row.extras for row in rows])
    names: Iterable[str] = first.explained
    if doubted is not None:
        p_up[:, np.isnan(doubted.p_up).all(axis=0)] = np.nan
        extras[:, np.isnan(doubted.extras).all(axis=0)] = np.nan
        names = [name for name in first.explained if name in doubted.explained]
    explained = {name: np.stack([row.explained[name] for row in rows]) for name in names}
    discarded = () if doubted is None else doubted.discarded
    return ModelAnswer(first.models, p_up, extras, explained, first.release, latency_ms, discarded, first.whole)


def _pack_row(row: PredictedRow) -> bytes:
    arrays = {"p_up": row.p_up, "extras": row.extras} | {f"of_{name}": one for name, one in row.explained.items()}
    facts = {"models": list(row.models), "release": row.release, "whole": row.whole}
    return snapshot.pack(arrays, facts, snapshot.FAST)


def _unpack_row(body: bytes) -> PredictedRow:
    facts, found = snapshot.unpack(body)
    try:
        arrays = {name: _float64(raw, shape) for name, (_, shape, raw) in found.items()}
        row = PredictedRow(
            tuple(str(name) for name in facts["models"]),
            arrays.pop("p_up"),
            arrays.pop("extras"),
            {name.removeprefix("of_"): values for name, values in arrays.items()},
            int(facts["release"]),
            bool(facts["whole"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not a prediction: {error}", mend=_MEND) from error
    # Only complete answers are kept: a NaN among the probabilities was not there.
    usable = bool((row.p_up >= 0.0).all() and (row.p_up <= 1.0).all())
    if not usable or row.p_up.shape != (len(row.models),) or row.extras.shape != (len(EXTRAS),):
        raise DataError("not a prediction: probabilities or extras are not what they may be", mend=_MEND)
    return row


def _float64(raw: bytes, shape: tuple[int, ...]) -> Float64:
    # A copy: what lies in received bytes cannot be written to.
    return np.frombuffer(raw, np.float64).reshape(shape).copy()


@dataclass(frozen=True)
class FeatureRow:
    """A symbol's newest features, as the models were asked with them.

    Attributes:
        symbol: canonical symbol.
        time: opening of the row's bar, int64 ns UTC.
        features: float32 ``[F]``, the catalogue's order.
    """

    symbol: str
    time: int
    features: Float32


def features_key(feature_hash: str, source: str, symbol: str) -> str:
    """Return the key of a symbol's newest features."""
    return _key(Level.FEATURES, feature_hash, source, symbol)


def _pack_features(row: FeatureRow) -> bytes:
    return snapshot.pack({"features": row.features}, {"symbol": row.symbol, "time": row.time}, snapshot.FAST)


def _unpack_features(body: bytes) -> FeatureRow:
    facts, found = snapshot.unpack(body)
    try:
        _, shape, raw = found["features"]
        values = np.frombuffer(raw, np.float32).reshape(shape).copy()
        return FeatureRow(str(facts["symbol"]), int(facts["time"]), values)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not a row of features: {error}", mend=_MEND) from error


@dataclass(frozen=True)
class PatternFact:
    """What followed a chart pattern in history, over the horizon of the labels.

    Attributes:
        pattern: one of :data:`fx_dagster.models.patterns.PATTERNS`, or ``every_bar`` to compare with.
        symbol: canonical symbol; :data:`POOLED`: all together.
        horizon_bars: bars over which it was followed.
        count: bars at which it stood.
        independent: of these, how many have horizons that do not overlap: what the interval rests on.
        rises: after how many of ``count`` the price was higher.
        share: ``rises / count``.
        low, high: 95 % interval of the share.
        mean_return: mean fractional return over the horizon, before costs.
        long_return: the same of a long position, after costs.
        short_return: of a short one, after costs.
    """

    pattern: str
    symbol: str
    horizon_bars: int
    count: int
    independent: int
    rises: int
    share: float
    low: float
    high: float
    mean_return: float
    long_return: float
    short_return: float


PatternFacts = tuple[PatternFact, ...]


def patterns_key(feature_hash: str, source: str) -> str:
    """Return the key of a source's pattern history."""
    return _key(Level.PATTERNS, feature_hash, source)


def facts_from(records: Iterable[Mapping[str, Any]]) -> PatternFacts:
    """Return the facts of a table's rows; patterns that never stood are left out.

    Raises:
        DataError: a column is missing or not of its type.
    """
    kinds = PatternFact.__annotations__.items()
    try:
        facts = tuple(
            PatternFact(**{name: kind(record[name]) for name, kind in kinds})
            for record in records
            if int(record["count"]) > 0
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(f"not a pattern history: {error}", mend="materialise pattern_history again") from error
    if not all(math.isfinite(value) for fact in facts for value in asdict(fact).values() if isinstance(value, float)):
        raise DataError("a pattern history with a number that is not finite", mend="materialise pattern_history again")
    return facts


def _pack_facts(facts: PatternFacts) -> bytes:
    return json.dumps([asdict(fact) for fact in facts], allow_nan=False).encode()


def _unpack_facts(body: bytes) -> PatternFacts:
    try:
        return facts_from(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a pattern history: {error}", mend=_MEND) from error


class WeightStore(Protocol):
    """Keeps models' files by their SHA-256."""

    def weights(self, sha256: str) -> bytes | None:
        """Return the file with that hash, verified; None: it is not there."""
        ...

    def keep_weights(self, content: bytes) -> str:
        """Keep a file and return its hash."""
        ...


def weights_key(sha256: str) -> str:
    """Return the key of a model's file."""
    return _key(Level.WEIGHTS, sha256)


@dataclass(frozen=True)
class LevelKind(Generic[V]):
    """How entries of one level become bytes, and how many bytes there may be.

    Attributes:
        level: which one.
        pack: an entry's body.
        unpack: the entry of a body; raises DataError.
        size: an entry's bytes in this process.
        memory_max: bytes of the level in this process.
        body_max: bytes of one body in the shared cache.
    """

    level: Level
    pack: Callable[[V], bytes]
    unpack: Callable[[bytes], V]
    size: Callable[[V], int]
    memory_max: int
    body_max: int


PREDICTIONS: Final = LevelKind[PredictedRow](
    Level.PREDICTIONS, _pack_row, _unpack_row, lambda row: row.size, 16 * _MIB, _MIB
)
FEATURES: Final = LevelKind[FeatureRow](
    Level.FEATURES, _pack_features, _unpack_features, lambda row: 256 + row.features.nbytes, 16 * _MIB, _MIB
)
PATTERNS: Final = LevelKind[PatternFacts](
    Level.PATTERNS, _pack_facts, _unpack_facts, lambda facts: 512 * len(facts), 8 * _MIB, 4 * _MIB
)
WEIGHTS: Final = LevelKind[bytes](Level.WEIGHTS, bytes, bytes, len, 256 * _MIB, 32 * _MIB)
KINDS: Final[tuple[LevelKind[Any], ...]] = (PREDICTIONS, FEATURES, PATTERNS, WEIGHTS)
