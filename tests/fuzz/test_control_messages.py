"""What reaches the control server beside HTTP: messages of stream readers, and the engine's own."""

import json

from hypothesis import given
from hypothesis import strategies as st

from resources.control.limits import too_deep
from resources.control.stream import TOPICS, Hub, _Closed, wished
from resources.live_publisher import VERSION, read_message

from .mutations import DEEP, altered, budget, json_values, mutated

GOOD = {"topics": sorted(TOPICS)}


@budget(300)
@given(
    altered(GOOD).map(json.dumps) | json_values().map(json.dumps) | st.text(max_size=60)
    | st.sampled_from((DEEP.decode(), '{"topics": [NaN]}', json.dumps(GOOD), '{"topics": ["' + "x" * 70_000 + '"]}'))
)  # fmt: skip
def test_a_readers_message_chooses_topics_or_closes_that_reader(text: str) -> None:
    closed: _Closed | None = None
    try:
        assert wished(text) <= set(TOPICS)
    except _Closed as error:
        closed = error
    if closed is not None:
        assert 1000 < closed.code < 5000
        assert 0 < len(closed.reason.encode()) <= 123, "a close frame holds no more"


def engine_messages() -> list[bytes]:
    """Return what an engine publishes."""
    quote = {"symbol": "EURUSD", "time_ns": 5, "bid": 1.1, "ask": 1.2}
    said = [{"v": VERSION, "topic": topic, "items": [quote]} for topic in ("ticks", "bars")]
    return [json.dumps(one).encode() for one in said]


@budget(300)
@given(
    st.sampled_from(engine_messages()).flatmap(mutated) | json_values().map(lambda one: json.dumps(one).encode())
    | st.sampled_from([json.loads(one) for one in engine_messages()]).flatmap(altered)
    .map(lambda one: json.dumps(one).encode())
    | st.binary(max_size=40) | st.just(DEEP)
)  # fmt: skip
def test_what_comes_over_the_cache_server_is_handed_on_whole_or_not_at_all(data: bytes) -> None:
    assert all(read_message(one) is not None for one in engine_messages())
    read = read_message(data)
    if read is None:
        return
    topic, items = read
    assert topic in TOPICS
    hub = Hub(readers_max=2, queue_max=4)
    if topic == "ticks":
        hub.publish_quotes(items)
    else:
        hub.publish(topic, {"items": items})


@budget(200)
@given(json_values(30).map(lambda one: json.dumps(one).encode()) | st.binary(max_size=60))
def test_depth_is_told_without_parsing(text: bytes) -> None:
    if not too_deep(text):
        try:
            json.loads(text)
        except ValueError:
            return
    assert too_deep(DEEP)
