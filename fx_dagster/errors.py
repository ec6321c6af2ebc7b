"""Every error of the project.

A child also inherits the builtin that it refines, so that callers may catch either::

    FxError
    ├── SettingsError (ValueError)      a setting is unknown, missing or impossible
    ├── DataError (ValueError)          data from outside breaks its contract
    │   ├── SourceError                 a market source cannot be read as it is
    │   ├── UnknownSymbolError          no such symbol or timeframe
    │   └── LakeError                   a lake file is missing or corrupt
    ├── FeatureMismatchError (ValueError)  a model was trained on another feature catalogue
    ├── TrainingError (ValueError)      a model cannot be fitted on these rows
    ├── ReleaseError (RuntimeError)     a release is incomplete, altered or refused
    ├── ServerError (RuntimeError)      a server does not start, answer or stop
    │   ├── PortInUseError
    │   └── UnsupportedPlatformError    this machine cannot run that server
    ├── ModelUnavailableError (RuntimeError)  no usable answer within the deadline
    └── TradingError (RuntimeError)     an order or account is in a state that forbids the action
        ├── BrokerError                 the broker refuses or cannot be reached
        ├── JournalError                the order journal cannot be written
        └── FencedError                 another engine holds the account
"""


class FxError(Exception):
    """Root of the project's errors.

    The message is one line that names the place (file, row, field, setting) and, in ``mend``, what to do about it.
    """

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.mend = mend

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} → {self.mend}" if self.mend else message


class SettingsError(FxError, ValueError):
    """A setting is unknown, missing or impossible."""


class DataError(FxError, ValueError):
    """Data from outside breaks its contract."""


class SourceError(DataError):
    """A market source cannot be read as it is."""


class UnknownSymbolError(DataError):
    """No such symbol or timeframe here."""


class LakeError(DataError):
    """A lake file is missing, corrupt or cannot be written."""


class FeatureMismatchError(FxError, ValueError):
    """A model was trained on another feature catalogue."""


class TrainingError(FxError, ValueError):
    """A model cannot be fitted on these rows."""


class ReleaseError(FxError, RuntimeError):
    """A release is incomplete, altered or refused."""


class ServerError(FxError, RuntimeError):
    """A server does not start, answer or stop."""


class PortInUseError(ServerError):
    """The port that a server was told to use is taken."""


class UnsupportedPlatformError(ServerError):
    """This machine cannot run that server."""


class ModelUnavailableError(FxError, RuntimeError):
    """No usable answer from a model within the deadline."""


class TradingError(FxError, RuntimeError):
    """An order or account is in a state that forbids the action."""


class BrokerError(TradingError):
    """The broker refuses or cannot be reached."""


class JournalError(TradingError):
    """The order journal cannot be written."""


class FencedError(TradingError):
    """Another engine holds the account."""
