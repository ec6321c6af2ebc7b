"""Answers that are errors: one shape, ``what`` is wrong and what would ``mend`` it."""

import logging
import traceback

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from fx_dagster.errors import FxError, JournalError, ReleaseError, ServerError, SettingsError
from resources.postgres import unreachable

_log = logging.getLogger("fx_dagster.control")
_MENDS = {
    404: "GET /openapi.json lists the paths",
    405: "GET /openapi.json lists the methods",
}


class Problem(BaseModel):
    """Why a request was not done."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"what": "this token may read only", "mend": "use one with the role operate"}}
    )

    what: str = Field(description="What is wrong, in one line.")
    mend: str = Field(description="What to do about it.")


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An answer with an error's status.

    Attributes:
        status: of HTTP.
        what: what is wrong.
        mend: what to do about it.
        headers: of the answer.
    """

    def __init__(self, status: int, what: str, mend: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(what)
        self.status, self.what, self.mend, self.headers = status, what, mend, headers or {}

    def response(self) -> JSONResponse:
        """Return it as it is sent."""
        return problem(self.status, self.what, self.mend, self.headers)


def problem(status: int, what: str, mend: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error's answer."""
    return JSONResponse({"what": what, "mend": mend}, status_code=status, headers=headers)


def refusal_of(error: Exception) -> Refused:
    """Return the answer that an error of the project, or of PostgreSQL, stands for; nothing secret is in it."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, psycopg.OperationalError):
        error = unreachable(error)
    if isinstance(error, FxError):
        status = (
            503 if isinstance(error, ServerError) else 409 if isinstance(error, ReleaseError | JournalError) else 400
        )
        status = 503 if isinstance(error, SettingsError) else status  # settings are this server's, not the caller's
        return Refused(status, str(error.args[0]), error.mend or "see the log of the control server")
    return Refused(500, "a fault in the control server", "its log says more")


def install(app: FastAPI) -> None:
    """Have every error answered in the one shape."""

    def known(_: Request, error: Exception) -> JSONResponse:
        return refusal_of(error).response()

    def unknown(_: Request, error: Exception) -> JSONResponse:
        # Types and places only: a message may repeat what a caller sent.
        places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-5:])
        _log.error("fault: %s in %s", type(error).__name__, places)
        return refusal_of(error).response()

    def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - narrows for the type checker
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return problem(422, f"{place}: {first['msg']}", "GET /openapi.json says what it may be")

    def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        headers = dict(error.headers or {})
        return problem(
            error.status_code, str(error.detail), _MENDS.get(error.status_code, "correct the request"), headers
        )

    for kind in (Refused, FxError, psycopg.OperationalError):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unknown)
