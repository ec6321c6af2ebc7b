"""The control server's application: what can be asked and ordered over HTTP, and the stream.

It is a process of its own beside the engine. It reads PostgreSQL, and an order is a row there, which the engine looks
at twice a second: nothing here can make a decision wait.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, FastAPI, Path, Query, Request, Response, WebSocket
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fx_dagster.errors import FxError
from fx_dagster.settings import ControlSettings, Settings
from resources.alerts import AlertWatch
from resources.control import errors, metrics, stream
from resources.control.auth import Caller, Gate, Role
from resources.control.errors import Problem, Refused, refusal_of
from resources.control.limits import BODY_BYTES_MAX, BodyLimit
from resources.control.protocols import Drills, NoDrills, ReleaseSwitch
from resources.control.reads import ROWS_MAX, SAFE_INTEGER, SessionReads, plain
from resources.control.store import AuditEntry, ControlStore
from resources.live_store import LiveStore
from resources.releases import ReleaseStore

THREADS = 8
"""Questions to PostgreSQL at once."""
_SYMBOL = r"^[A-Za-z0-9._#-]{1,29}$"
_REASON = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_log = logging.getLogger("fx_dagster.control")


@dataclass
class ControlParts:
    """What the application works with.

    Attributes:
        settings: of the installation, with PostgreSQL's address.
        control: group of the control server.
        gate: lets callers in.
        store: tokens, nonces, audit and ceiling.
        live: kill switch and sessions.
        reads: rows of the account's sessions.
        releases: which there are.
        switch: promotes and rolls back.
        watch: of the alerts; None: nobody watches.
        drills: that can be run here.
        open_metrics: whether /metrics needs no token.
    """

    settings: Settings
    control: ControlSettings
    gate: Gate
    store: ControlStore
    live: LiveStore
    reads: SessionReads
    releases: ReleaseStore
    switch: ReleaseSwitch
    watch: AlertWatch | None = None
    drills: Drills = field(default_factory=NoDrills)
    open_metrics: bool = False

    @property
    def account(self) -> str:
        """The account that this server is about."""
        return self.settings.live.account


# -- shapes ------------------------------------------------------------------------------------------------------------

Reason = Annotated[
    str, Field(max_length=200, pattern=_REASON, description="Why; kept for good.", examples=["news at 14:30"])
]


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Reason = ""


class ResumeOrder(_Order):
    """Let the account trade again."""

    restart: bool = Field(False, description="Let the sensor begin a new session, also after a finished one.")


class LevelOrder(_Order):
    """Allow no better fallback level."""

    level: Annotated[int, Field(ge=1, le=4)] = Field(
        description="1 lifts the ceiling; 4 opens no position.", examples=[3]
    )


class PromoteOrder(_Order):
    """Let a release answer."""

    force: bool = Field(False, description="Overrule costs and the sequential test; needs a reason. Nothing else.")


class Done(BaseModel):
    """What came of a command."""

    request_id: str = Field(description="Of the command in the audit.", examples=["0123456789abcdef0123456789abcdef"])
    command: str = Field(examples=["kill"])
    account: str = Field(examples=["paper"])
    result: dict[str, Any] = Field(description="What it did.", examples=[{"killed": True, "flatten": False}])


class Rows(BaseModel):
    """Rows of the newest session, newest first."""

    session: int | None = Field(description="Number of the session; null: the account never had one.", examples=[7])
    items: list[dict[str, Any]]


class Status(BaseModel):
    """The engine's last heartbeat."""

    account: str = Field(examples=["paper"])
    killed: bool
    kill_reason: str
    level_ceiling: int = Field(description="Best level that a person allows; 1: any.")
    engine: dict[str, Any] | None = Field(
        description="Heartbeat with `status`, `age_s` and `session_state`; null: the account never had a session."
    )


class Health(BaseModel):
    """Whether this server and what it depends on work."""

    control: Literal["ok"]
    store: str = Field(description="Why PostgreSQL cannot be asked; empty: it can.")
    heartbeat_age_s: float | None = Field(description="Age of the engine's last heartbeat; null: unknown.")
    stream_readers: int
    stream_problem: str = Field(description="Why the stream has no ticks and bars; empty: it has.")


class AlertRow(BaseModel):
    """Something that needs a person."""

    key: str = Field(examples=["level"])
    severity: Literal["info", "warning", "critical"]
    text: str
    mend: str


class DrillRow(BaseModel):
    """A fault that can be made on purpose."""

    name: str
    what: str
    expected: str


def _may(*statuses: int) -> dict[int | str, dict[str, Any]]:
    said = {
        400: "The request is malformed, or nested too deep.",
        401: "There is no valid token.",
        403: "The token may read only.",
        404: "There is no such thing.",
        409: "It was refused: a nonce used before, a stamp too old, or the state forbids it.",
        413: f"The body has more than {BODY_BYTES_MAX} bytes.",
        422: "A field is not what it must be.",
        429: "Too many wrong tokens from this address.",
        503: "PostgreSQL does not answer.",
    }
    return {status: {"model": Problem, "description": said[status]} for status in statuses}


_READ = _may(400, 401, 413, 422, 429, 503)
_ORDER = _may(400, 401, 403, 404, 409, 413, 422, 429, 503)
_FRESH: dict[str, Any] = {
    "parameters": [
        {
            "name": "X-Fx-Nonce", "in": "header", "required": True, "example": "kTn2J0mXo1s8Qy5d",
            "description": "New and random for each command; it is accepted once.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
        },
        {
            "name": "X-Fx-Timestamp", "in": "header", "required": True, "example": "1790000000",
            "description": "Seconds since 1970, UTC; refused when more than 60 s off.",
            "schema": {"type": "string", "pattern": r"^[0-9]{9,11}(\.[0-9]{1,9})?$"},
        },
    ]
}  # fmt: skip


# -- application -------------------------------------------------------------------------------------------------------


def create_app(parts: ControlParts) -> FastAPI:
    """Return the application."""
    hub = stream.Hub(readers_max=parts.control.readers_max, queue_max=parts.control.reader_queue_max)
    engine = stream.EngineFeed(parts.settings.redis.url.get_secret_value(), parts.account, hub)
    journal = stream.JournalFeed(parts.reads, hub, lambda: engine.problem, parts.control.stream_poll_s)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        works = [engine.run(), journal.run(), *([parts.watch.run()] if parts.watch is not None else [])]
        tasks = [asyncio.create_task(work) for work in works]
        for task in tasks:
            task.add_done_callback(_say_fault)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    app = FastAPI(
        title="fx_dagster control", version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
        summary="Looks at a live session and steers it, from outside.",
        description=(
            "Every request carries `Authorization: Bearer <token>`. Commands need a token with the role `operate`, a"
            " new `X-Fx-Nonce` and an `X-Fx-Timestamp`. Errors are `{what, mend}`. Market times are ns UTC.\n\n"
            "`GET /stream` is a WebSocket; a client may send `{\"topics\": [...]}`."
        ),
    )  # fmt: skip
    app.state.hub = hub
    errors.install(app)
    app.include_router(_reads(parts, hub, engine))
    app.include_router(_orders(parts))
    _add_stream(app, parts, hub)
    _describe(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(Entrance, parts=parts)
    return app


def _say_fault(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a task of the control server ended: %s", type(error).__name__)


def _describe(app: FastAPI) -> None:
    """Say in the description that every request needs a token, which the entrance sees to."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            schema["components"].setdefault("securitySchemes", {})["token"] = {"type": "http", "scheme": "bearer"}
            schema["security"] = [{"token": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


class Entrance:
    """Middleware that asks for a token before anything else is read.

    Args:
        app: what is asked then.
        parts: gate, and where a denied command is written down.
    """

    def __init__(self, app: ASGIApp, parts: ControlParts) -> None:
        self._app, self._parts = app, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or (self._parts.open_metrics and scope["path"] == "/metrics"):
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["caller"] = await asyncio.to_thread(self._admit, scope)
        except (Refused, FxError, OSError) as error:
            answer = refusal_of(error).response()
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> Caller:
        role = Role.READ if scope["method"] in {"GET", "HEAD", "OPTIONS"} else Role.OPERATE
        client = str((scope.get("client") or ("unknown",))[0])
        headers = Headers(scope=scope)
        try:
            return self._parts.gate.caller(headers, client, role)
        except Refused as refused:
            # Without a token nobody guesses, and beyond the limit nothing is looked at: neither fills the audit.
            if role is Role.OPERATE and refused.status in {401, 403} and "authorization" in headers:
                _audit(self._parts, _denied(self._parts, scope["path"], client, refused))
            raise


def _denied(parts: ControlParts, path: str, client: str, refused: Refused) -> AuditEntry:
    return AuditEntry(
        request_id=_request_id(), phase="denied", account=parts.account, token_id=None, who="unknown", role=None,
        command=_clean(path), arguments={}, client=client, result=refused.what,
    )  # fmt: skip


def _clean(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:200])


def _request_id() -> str:
    import secrets

    return secrets.token_hex(16)


def _audit(parts: ControlParts, entry: AuditEntry) -> None:
    """Write a step down; where PostgreSQL is away, the log has it."""
    try:
        parts.store.audit(entry)
    except FxError:
        _log.error("not in the audit: %s %s by %s: %s", entry.command, entry.phase, entry.who, entry.result)


# -- questions ---------------------------------------------------------------------------------------------------------

Limit = Annotated[int, Query(ge=1, le=ROWS_MAX, description="Most rows.")]


def _reads(parts: ControlParts, hub: stream.Hub, engine: stream.EngineFeed) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["questions"], responses=_READ)
    reads = parts.reads

    def rows(ask: Callable[[int], list[dict[str, Any]]]) -> Rows:
        session = reads.session_id()
        return Rows(session=session, items=[] if session is None else ask(session))

    @router.get("/status", summary="The engine's last heartbeat")
    def status() -> Status:
        kill = parts.live.kill_state(parts.account)
        ceiling = parts.store.ceiling(parts.account)
        return Status(
            account=parts.account, killed=kill.engaged, kill_reason=kill.reason, level_ceiling=ceiling.level,
            engine=reads.status(),
        )  # fmt: skip

    @router.get("/health", summary="Whether this server and what it depends on work")
    def health() -> Health:
        problem, age_s = "", None
        try:
            row = reads.status()
            age_s = row["age_s"] if row else None
        except FxError as error:
            problem = str(error.args[0])
        return Health(
            control="ok", store=problem, heartbeat_age_s=age_s, stream_readers=len(hub), stream_problem=engine.problem
        )

    @router.get("/decisions", summary="Decisions of the newest session")
    def decisions(
        limit: Limit = 100,
        symbol: Annotated[
            str | None, Query(pattern=_SYMBOL, description="Canonical symbol.", examples=["EURUSD"])
        ] = None,
        below: Annotated[
            int | None, Query(ge=1, le=SAFE_INTEGER, description="Only numbers under it: the next page.")
        ] = None,
    ) -> Rows:
        return rows(lambda session: reads.decisions(session, symbol=symbol, below=below, limit=limit))

    @router.get("/orders", summary="Orders of the newest session")
    def orders(limit: Limit = 100) -> Rows:
        return rows(lambda session: reads.orders(session, limit=limit))

    @router.get("/orders/doubtful", summary="Orders that the broker may have or not; held: for a person to decide")
    def doubtful() -> list[dict[str, Any]]:
        return [plain(row) for row in parts.live.doubtful_orders(parts.account)]

    @router.get("/deals", summary="Deals of the newest session")
    def deals(limit: Limit = 100) -> Rows:
        return rows(lambda session: reads.deals(session, limit=limit))

    @router.get("/positions", summary="Money and open positions, as last journalled (once a bar)")
    def positions() -> Rows:
        def ask(session: int) -> list[dict[str, Any]]:
            row = reads.account_row(session)
            return [] if row is None else [row]

        return rows(ask)

    @router.get("/events", summary="What happened to the newest session")
    def events(limit: Limit = 100) -> Rows:
        return rows(lambda session: reads.events(session, limit=limit))

    _more_reads(router, parts)
    router_metrics = APIRouter(tags=["questions"])

    @router_metrics.get(
        "/metrics", summary="Metrics for Prometheus", response_class=Response,
        responses={**_may(401, 429, 503), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )  # fmt: skip
    def metrics_() -> Response:
        own = metrics.ExtraCollector(lambda: {"fx_control_stream_readers": ("Readers of the stream.", len(hub))})
        found = metrics.exposition(metrics.SessionCollector(reads, parts.live, parts.store), own)
        return Response(found, media_type=metrics.CONTENT_TYPE)

    whole = APIRouter()
    whole.include_router(router)
    whole.include_router(router_metrics)
    return whole


def _more_reads(router: APIRouter, parts: ControlParts) -> None:
    @router.get("/releases", summary="Releases of models, newest first")
    def releases() -> list[dict[str, Any]]:
        return [
            {
                "release": row.version, "made": row.created_at.isoformat(), "stage": str(row.stage), "live": row.active,
                "feature_hash": row.feature_hash,
            }
            for row in parts.releases.list()
        ]  # fmt: skip

    @router.get("/alerts", summary="What needs a person now")
    def alerts() -> list[AlertRow]:
        found = parts.watch.current if parts.watch is not None else ()
        return [
            AlertRow(key=one.key, severity=one.severity.name.lower(), text=one.text, mend=one.mend) for one in found
        ]

    @router.get("/drills", summary="Faults that can be made on purpose")
    def drills() -> list[DrillRow]:
        return [DrillRow(name=one.name, what=one.what, expected=one.expected) for one in parts.drills.list()]

    @router.get("/audit", summary="Commands and what came of them, newest first")
    def audit(limit: Limit = 100) -> list[dict[str, Any]]:
        return [{**row, "at": row["at"].isoformat()} for row in parts.store.audit_rows(parts.account, limit=limit)]


# -- commands ----------------------------------------------------------------------------------------------------------


class _Desk:
    """Carries commands out: fresh, written down before and after, the long ones one at a time."""

    def __init__(self, parts: ControlParts) -> None:
        self._parts = parts
        self._long = threading.Lock()

    def do(
        self, request: Request, command: str, arguments: dict[str, Any], action: Callable[[str], dict[str, Any]], *,
        long: bool = False,
    ) -> Done:  # fmt: skip
        """Do a command and return what came of it.

        Raises:
            Refused: it is not fresh, or another long one is under way.
            FxError: it cannot be done.
        """
        caller: Caller = request.state.caller
        asked = AuditEntry(
            request_id=_request_id(), phase="asked", account=self._parts.account, token_id=caller.token_id,
            who=caller.name, role=str(caller.role), command=command, arguments=arguments, client=caller.client,
        )  # fmt: skip
        self._accept(request, asked)
        if long and not self._long.acquire(blocking=False):
            self._end(asked, "refused", "another one is under way")
            raise Refused(409, "another promotion, rollback or drill is under way", "wait for its end")
        try:
            result = action(f"control:{caller.name}")
        except Exception as error:
            known = isinstance(error, FxError | Refused)
            self._end(asked, "refused" if known else "failed", str(error) if known else type(error).__name__)
            raise
        finally:
            if long:
                self._long.release()
        self._end(asked, "done", "")
        _log.info("%s by %s from %s", command, caller.name, caller.client)
        return Done(request_id=asked.request_id, command=command, account=asked.account, result=result)

    def _accept(self, request: Request, asked: AuditEntry) -> None:
        try:
            nonce = self._parts.gate.fresh(request.headers)
            if not self._parts.store.accept(asked, nonce):
                raise Refused(
                    409, "this nonce was used before", "send a new random one; the command was not done again"
                )
        except Refused as refused:
            self._end(asked, "denied", refused.what)
            raise

    def _end(self, asked: AuditEntry, phase: str, result: str) -> None:
        from dataclasses import replace

        _audit(self._parts, replace(asked, phase=phase, result=result))


def _orders(parts: ControlParts) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["commands"], responses=_ORDER)
    desk, live, account = _Desk(parts), parts.live, parts.account

    @router.post("/kill", summary="Stop new positions at once", openapi_extra=_FRESH)
    def kill(request: Request, order: _Order) -> Done:
        def action(by_whom: str) -> dict[str, Any]:
            live.kill(account, reason=order.reason, flatten=False, by_whom=by_whom)
            return {"killed": True, "flatten": False}

        return desk.do(request, "kill", order.model_dump(), action)

    @router.post("/flatten", summary="Stop new positions and close all open ones, at once", openapi_extra=_FRESH)
    def flatten(request: Request, order: _Order) -> Done:
        def action(by_whom: str) -> dict[str, Any]:
            live.kill(account, reason=order.reason, flatten=True, by_whom=by_whom)
            return {"killed": True, "flatten": True}

        return desk.do(request, "flatten", order.model_dump(), action)

    @router.post("/resume", summary="Let the account trade again", openapi_extra=_FRESH)
    def resume(request: Request, order: ResumeOrder) -> Done:
        def action(by_whom: str) -> dict[str, Any]:
            if order.restart:
                live.begin_anew(account)
            live.resume(account, by_whom=by_whom)
            return {"killed": False, "restart": order.restart}

        return desk.do(request, "resume", order.model_dump(), action)

    @router.post("/level", summary="Allow no better fallback level", openapi_extra=_FRESH)
    def level(request: Request, order: LevelOrder) -> Done:
        def action(by_whom: str) -> dict[str, Any]:
            parts.store.set_ceiling(account, order.level, reason=order.reason, by_whom=by_whom)
            return {"level_ceiling": order.level}

        return desk.do(request, "level", order.model_dump(), action)

    @router.post(
        "/orders/{key}/not-sent", summary="Say that the broker does not have a held order", openapi_extra=_FRESH
    )
    def not_sent(
        request: Request, order: _Order,
        key: Annotated[str, Path(pattern=r"^[1-9][0-9]{0,18}$", description="Of GET /v1/orders/doubtful.")],
    ) -> Done:  # fmt: skip
        def action(by_whom: str) -> dict[str, Any]:
            if int(key) >= 2**63:
                raise Refused(422, f"{key} is no order's key", "GET /v1/orders/doubtful lists them")
            live.decide_held(account, int(key), by_whom=by_whom)
            return {"client_order_id": key, "verdict": "not_sent"}

        return desk.do(request, "not-sent", {"key": key, **order.model_dump()}, action)

    _long_orders(router, parts, desk)
    return router


def _long_orders(router: APIRouter, parts: ControlParts, desk: _Desk) -> None:
    version_ = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of the release.")]

    @router.post(
        "/releases/{version}/promote", summary="Let a release answer, if every gate lets it", openapi_extra=_FRESH
    )
    def promote(request: Request, version: version_, order: PromoteOrder) -> Done:
        def action(_: str) -> dict[str, Any]:
            if order.force and not order.reason:
                raise Refused(422, "force without a reason", "say why")
            return parts.switch.promote(version, reason=order.reason or "promoted", force=order.force)

        return desk.do(request, "promote", {"version": version, **order.model_dump()}, action, long=True)

    @router.post("/releases/rollback", summary="Go back to the release before", openapi_extra=_FRESH)
    def rollback(request: Request, order: _Order) -> Done:
        def action(_: str) -> dict[str, Any]:
            return parts.switch.rollback(reason=order.reason or "rollback")

        return desk.do(request, "rollback", order.model_dump(), action, long=True)

    @router.post("/drills/{name}", summary="Make a fault on purpose and see what comes of it", openapi_extra=_FRESH)
    def drill(
        request: Request, name: Annotated[str, Path(pattern=r"^[a-z0-9-]{1,64}$", description="Of GET /v1/drills.")],
        order: _Order,
    ) -> Done:  # fmt: skip
        def action(by_whom: str) -> dict[str, Any]:
            try:
                outcome = parts.drills.run(name, by_whom=by_whom)
            except KeyError:
                raise Refused(404, f"there is no drill {name}", "GET /v1/drills lists them") from None
            return {"passed": outcome.passed, "text": outcome.text, "seconds": outcome.seconds}

        return desk.do(request, "drill", {"name": name, **order.model_dump()}, action, long=True)


# -- the stream --------------------------------------------------------------------------------------------------------


def _add_stream(app: FastAPI, parts: ControlParts, hub: stream.Hub) -> None:
    @app.websocket("/stream")
    async def follow(websocket: WebSocket) -> None:
        client = websocket.client.host if websocket.client else "unknown"
        headers = dict(websocket.headers)

        async def admit() -> Caller:
            return await asyncio.to_thread(parts.gate.caller, headers, client, Role.READ)

        async def still_allowed() -> bool:
            try:
                await admit()
            except Refused:
                return False
            except FxError:
                return True  # PostgreSQL is away: nobody knows better than before
            return True

        try:
            await admit()
            if hub.full:
                raise Refused(
                    503, "too many readers", "close one, or raise FX_CONTROL_READERS_MAX", {"Retry-After": "10"}
                )
        except (Refused, FxError) as error:
            await websocket.send_denial_response(refusal_of(error).response())
            return
        await websocket.accept()
        began = time.monotonic()
        await stream.serve(websocket, hub, still_allowed)
        _log.info("a reader of the stream left after %.0f s", time.monotonic() - began)
