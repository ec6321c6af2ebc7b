from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Purpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PURPOSE_UNSPECIFIED: _ClassVar[Purpose]
    PURPOSE_OPEN: _ClassVar[Purpose]
    PURPOSE_CLOSE: _ClassVar[Purpose]
    PURPOSE_MODIFY: _ClassVar[Purpose]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_ACCEPTED: _ClassVar[Kind]
    KIND_PARTIAL: _ClassVar[Kind]
    KIND_REFUSED: _ClassVar[Kind]
    KIND_REQUOTE: _ClassVar[Kind]
    KIND_UNKNOWN: _ClassVar[Kind]
PURPOSE_UNSPECIFIED: Purpose
PURPOSE_OPEN: Purpose
PURPOSE_CLOSE: Purpose
PURPOSE_MODIFY: Purpose
KIND_UNSPECIFIED: Kind
KIND_ACCEPTED: Kind
KIND_PARTIAL: Kind
KIND_REFUSED: Kind
KIND_REQUOTE: Kind
KIND_UNKNOWN: Kind

class Failure(_message.Message):
    __slots__ = ("code", "text")
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    code: int
    text: str
    def __init__(self, code: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthReply(_message.Message):
    __slots__ = ("ready", "reason", "trading_allowed", "trading_reason", "login", "server", "mode", "simulated", "now_ns", "heartbeat_age_ms", "worker_starts", "quote_msc", "quote_moves")
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRADING_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TRADING_REASON_FIELD_NUMBER: _ClassVar[int]
    LOGIN_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    WORKER_STARTS_FIELD_NUMBER: _ClassVar[int]
    QUOTE_MSC_FIELD_NUMBER: _ClassVar[int]
    QUOTE_MOVES_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    reason: str
    trading_allowed: bool
    trading_reason: str
    login: str
    server: str
    mode: str
    simulated: bool
    now_ns: int
    heartbeat_age_ms: int
    worker_starts: int
    quote_msc: int
    quote_moves: bool
    def __init__(self, ready: _Optional[bool] = ..., reason: _Optional[str] = ..., trading_allowed: _Optional[bool] = ..., trading_reason: _Optional[str] = ..., login: _Optional[str] = ..., server: _Optional[str] = ..., mode: _Optional[str] = ..., simulated: _Optional[bool] = ..., now_ns: _Optional[int] = ..., heartbeat_age_ms: _Optional[int] = ..., worker_starts: _Optional[int] = ..., quote_msc: _Optional[int] = ..., quote_moves: _Optional[bool] = ...) -> None: ...

class NowRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NowReply(_message.Message):
    __slots__ = ("failure", "now_ns")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    now_ns: int
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., now_ns: _Optional[int] = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Terminal(_message.Message):
    __slots__ = ("connected", "trade_allowed", "tradeapi_disabled", "build", "company", "name")
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    TRADE_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TRADEAPI_DISABLED_FIELD_NUMBER: _ClassVar[int]
    BUILD_FIELD_NUMBER: _ClassVar[int]
    COMPANY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    connected: bool
    trade_allowed: bool
    tradeapi_disabled: bool
    build: int
    company: str
    name: str
    def __init__(self, connected: _Optional[bool] = ..., trade_allowed: _Optional[bool] = ..., tradeapi_disabled: _Optional[bool] = ..., build: _Optional[int] = ..., company: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("login", "server", "currency", "trade_mode", "margin_mode", "leverage", "trade_allowed", "trade_expert", "balance", "equity", "margin", "profit")
    LOGIN_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    TRADE_MODE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_MODE_FIELD_NUMBER: _ClassVar[int]
    LEVERAGE_FIELD_NUMBER: _ClassVar[int]
    TRADE_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TRADE_EXPERT_FIELD_NUMBER: _ClassVar[int]
    BALANCE_FIELD_NUMBER: _ClassVar[int]
    EQUITY_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    PROFIT_FIELD_NUMBER: _ClassVar[int]
    login: int
    server: str
    currency: str
    trade_mode: int
    margin_mode: int
    leverage: int
    trade_allowed: bool
    trade_expert: bool
    balance: float
    equity: float
    margin: float
    profit: float
    def __init__(self, login: _Optional[int] = ..., server: _Optional[str] = ..., currency: _Optional[str] = ..., trade_mode: _Optional[int] = ..., margin_mode: _Optional[int] = ..., leverage: _Optional[int] = ..., trade_allowed: _Optional[bool] = ..., trade_expert: _Optional[bool] = ..., balance: _Optional[float] = ..., equity: _Optional[float] = ..., margin: _Optional[float] = ..., profit: _Optional[float] = ...) -> None: ...

class InfoReply(_message.Message):
    __slots__ = ("failure", "terminal", "account")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    terminal: Terminal
    account: Account
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., terminal: _Optional[_Union[Terminal, _Mapping]] = ..., account: _Optional[_Union[Account, _Mapping]] = ...) -> None: ...

class SymbolsRequest(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class Symbol(_message.Message):
    __slots__ = ("name", "digits", "point", "contract_size", "volume_step", "volume_min", "volume_max", "currency_base", "currency_profit", "swap_mode", "swap_long", "swap_short", "swap_rollover3days", "trade_stops_level", "trade_freeze_level", "trade_mode", "filling_mode", "bid", "ask", "tick_value", "tick_size", "time_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGITS_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_SIZE_FIELD_NUMBER: _ClassVar[int]
    VOLUME_STEP_FIELD_NUMBER: _ClassVar[int]
    VOLUME_MIN_FIELD_NUMBER: _ClassVar[int]
    VOLUME_MAX_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_BASE_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_PROFIT_FIELD_NUMBER: _ClassVar[int]
    SWAP_MODE_FIELD_NUMBER: _ClassVar[int]
    SWAP_LONG_FIELD_NUMBER: _ClassVar[int]
    SWAP_SHORT_FIELD_NUMBER: _ClassVar[int]
    SWAP_ROLLOVER3DAYS_FIELD_NUMBER: _ClassVar[int]
    TRADE_STOPS_LEVEL_FIELD_NUMBER: _ClassVar[int]
    TRADE_FREEZE_LEVEL_FIELD_NUMBER: _ClassVar[int]
    TRADE_MODE_FIELD_NUMBER: _ClassVar[int]
    FILLING_MODE_FIELD_NUMBER: _ClassVar[int]
    BID_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    TICK_VALUE_FIELD_NUMBER: _ClassVar[int]
    TICK_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIME_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    digits: int
    point: float
    contract_size: float
    volume_step: float
    volume_min: float
    volume_max: float
    currency_base: str
    currency_profit: str
    swap_mode: int
    swap_long: float
    swap_short: float
    swap_rollover3days: int
    trade_stops_level: int
    trade_freeze_level: int
    trade_mode: int
    filling_mode: int
    bid: float
    ask: float
    tick_value: float
    tick_size: float
    time_s: int
    def __init__(self, name: _Optional[str] = ..., digits: _Optional[int] = ..., point: _Optional[float] = ..., contract_size: _Optional[float] = ..., volume_step: _Optional[float] = ..., volume_min: _Optional[float] = ..., volume_max: _Optional[float] = ..., currency_base: _Optional[str] = ..., currency_profit: _Optional[str] = ..., swap_mode: _Optional[int] = ..., swap_long: _Optional[float] = ..., swap_short: _Optional[float] = ..., swap_rollover3days: _Optional[int] = ..., trade_stops_level: _Optional[int] = ..., trade_freeze_level: _Optional[int] = ..., trade_mode: _Optional[int] = ..., filling_mode: _Optional[int] = ..., bid: _Optional[float] = ..., ask: _Optional[float] = ..., tick_value: _Optional[float] = ..., tick_size: _Optional[float] = ..., time_s: _Optional[int] = ...) -> None: ...

class SymbolsReply(_message.Message):
    __slots__ = ("failure", "symbols")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    symbols: _containers.RepeatedCompositeFieldContainer[Symbol]
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., symbols: _Optional[_Iterable[_Union[Symbol, _Mapping]]] = ...) -> None: ...

class RatesRequest(_message.Message):
    __slots__ = ("symbol", "timeframe", "start_pos", "count")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    TIMEFRAME_FIELD_NUMBER: _ClassVar[int]
    START_POS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    timeframe: int
    start_pos: int
    count: int
    def __init__(self, symbol: _Optional[str] = ..., timeframe: _Optional[int] = ..., start_pos: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class TicksRequest(_message.Message):
    __slots__ = ("symbol", "from_s", "count", "flags")
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    FROM_S_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    symbol: str
    from_s: int
    count: int
    flags: int
    def __init__(self, symbol: _Optional[str] = ..., from_s: _Optional[int] = ..., count: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class RowsReply(_message.Message):
    __slots__ = ("failure", "rows")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    rows: bytes
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., rows: _Optional[bytes] = ...) -> None: ...

class PositionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Position(_message.Message):
    __slots__ = ("ticket", "time_msc", "type", "magic", "identifier", "reason", "volume", "price_open", "sl", "tp", "price_current", "swap", "profit", "symbol", "comment")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TIME_MSC_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MAGIC_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PRICE_OPEN_FIELD_NUMBER: _ClassVar[int]
    SL_FIELD_NUMBER: _ClassVar[int]
    TP_FIELD_NUMBER: _ClassVar[int]
    PRICE_CURRENT_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    PROFIT_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    time_msc: int
    type: int
    magic: int
    identifier: int
    reason: int
    volume: float
    price_open: float
    sl: float
    tp: float
    price_current: float
    swap: float
    profit: float
    symbol: str
    comment: str
    def __init__(self, ticket: _Optional[int] = ..., time_msc: _Optional[int] = ..., type: _Optional[int] = ..., magic: _Optional[int] = ..., identifier: _Optional[int] = ..., reason: _Optional[int] = ..., volume: _Optional[float] = ..., price_open: _Optional[float] = ..., sl: _Optional[float] = ..., tp: _Optional[float] = ..., price_current: _Optional[float] = ..., swap: _Optional[float] = ..., profit: _Optional[float] = ..., symbol: _Optional[str] = ..., comment: _Optional[str] = ...) -> None: ...

class PositionsReply(_message.Message):
    __slots__ = ("failure", "positions")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    positions: _containers.RepeatedCompositeFieldContainer[Position]
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., positions: _Optional[_Iterable[_Union[Position, _Mapping]]] = ...) -> None: ...

class OrdersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Order(_message.Message):
    __slots__ = ("ticket", "time_setup_msc", "time_done_msc", "type", "state", "magic", "position_id", "reason", "volume_initial", "volume_current", "price_open", "sl", "tp", "symbol", "comment")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    TIME_SETUP_MSC_FIELD_NUMBER: _ClassVar[int]
    TIME_DONE_MSC_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MAGIC_FIELD_NUMBER: _ClassVar[int]
    POSITION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VOLUME_INITIAL_FIELD_NUMBER: _ClassVar[int]
    VOLUME_CURRENT_FIELD_NUMBER: _ClassVar[int]
    PRICE_OPEN_FIELD_NUMBER: _ClassVar[int]
    SL_FIELD_NUMBER: _ClassVar[int]
    TP_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    time_setup_msc: int
    time_done_msc: int
    type: int
    state: int
    magic: int
    position_id: int
    reason: int
    volume_initial: float
    volume_current: float
    price_open: float
    sl: float
    tp: float
    symbol: str
    comment: str
    def __init__(self, ticket: _Optional[int] = ..., time_setup_msc: _Optional[int] = ..., time_done_msc: _Optional[int] = ..., type: _Optional[int] = ..., state: _Optional[int] = ..., magic: _Optional[int] = ..., position_id: _Optional[int] = ..., reason: _Optional[int] = ..., volume_initial: _Optional[float] = ..., volume_current: _Optional[float] = ..., price_open: _Optional[float] = ..., sl: _Optional[float] = ..., tp: _Optional[float] = ..., symbol: _Optional[str] = ..., comment: _Optional[str] = ...) -> None: ...

class OrdersReply(_message.Message):
    __slots__ = ("failure", "orders")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    orders: _containers.RepeatedCompositeFieldContainer[Order]
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., orders: _Optional[_Iterable[_Union[Order, _Mapping]]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("from_s", "to_s")
    FROM_S_FIELD_NUMBER: _ClassVar[int]
    TO_S_FIELD_NUMBER: _ClassVar[int]
    from_s: int
    to_s: int
    def __init__(self, from_s: _Optional[int] = ..., to_s: _Optional[int] = ...) -> None: ...

class Deal(_message.Message):
    __slots__ = ("ticket", "order", "time_msc", "type", "entry", "magic", "position_id", "reason", "volume", "price", "commission", "swap", "profit", "fee", "symbol", "comment")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TIME_MSC_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    MAGIC_FIELD_NUMBER: _ClassVar[int]
    POSITION_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    COMMISSION_FIELD_NUMBER: _ClassVar[int]
    SWAP_FIELD_NUMBER: _ClassVar[int]
    PROFIT_FIELD_NUMBER: _ClassVar[int]
    FEE_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    order: int
    time_msc: int
    type: int
    entry: int
    magic: int
    position_id: int
    reason: int
    volume: float
    price: float
    commission: float
    swap: float
    profit: float
    fee: float
    symbol: str
    comment: str
    def __init__(self, ticket: _Optional[int] = ..., order: _Optional[int] = ..., time_msc: _Optional[int] = ..., type: _Optional[int] = ..., entry: _Optional[int] = ..., magic: _Optional[int] = ..., position_id: _Optional[int] = ..., reason: _Optional[int] = ..., volume: _Optional[float] = ..., price: _Optional[float] = ..., commission: _Optional[float] = ..., swap: _Optional[float] = ..., profit: _Optional[float] = ..., fee: _Optional[float] = ..., symbol: _Optional[str] = ..., comment: _Optional[str] = ...) -> None: ...

class DealsReply(_message.Message):
    __slots__ = ("failure", "deals")
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DEALS_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    deals: _containers.RepeatedCompositeFieldContainer[Deal]
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., deals: _Optional[_Iterable[_Union[Deal, _Mapping]]] = ...) -> None: ...

class Intent(_message.Message):
    __slots__ = ("key", "account", "epoch", "expires_ns", "symbol", "purpose", "lots", "stop", "target", "position", "deviation_points")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_POINTS_FIELD_NUMBER: _ClassVar[int]
    key: int
    account: str
    epoch: int
    expires_ns: int
    symbol: str
    purpose: Purpose
    lots: float
    stop: float
    target: float
    position: int
    deviation_points: int
    def __init__(self, key: _Optional[int] = ..., account: _Optional[str] = ..., epoch: _Optional[int] = ..., expires_ns: _Optional[int] = ..., symbol: _Optional[str] = ..., purpose: _Optional[_Union[Purpose, str]] = ..., lots: _Optional[float] = ..., stop: _Optional[float] = ..., target: _Optional[float] = ..., position: _Optional[int] = ..., deviation_points: _Optional[int] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("kind", "retcode", "order", "deal", "volume", "price", "text", "working")
    KIND_FIELD_NUMBER: _ClassVar[int]
    RETCODE_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    DEAL_FIELD_NUMBER: _ClassVar[int]
    VOLUME_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WORKING_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    retcode: int
    order: int
    deal: int
    volume: float
    price: float
    text: str
    working: bool
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., retcode: _Optional[int] = ..., order: _Optional[int] = ..., deal: _Optional[int] = ..., volume: _Optional[float] = ..., price: _Optional[float] = ..., text: _Optional[str] = ..., working: _Optional[bool] = ...) -> None: ...

class BeatRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BeatReply(_message.Message):
    __slots__ = ("ready", "reason", "trading_allowed", "trading_reason", "now_ns", "quote_msc")
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRADING_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TRADING_REASON_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    QUOTE_MSC_FIELD_NUMBER: _ClassVar[int]
    ready: bool
    reason: str
    trading_allowed: bool
    trading_reason: str
    now_ns: int
    quote_msc: int
    def __init__(self, ready: _Optional[bool] = ..., reason: _Optional[str] = ..., trading_allowed: _Optional[bool] = ..., trading_reason: _Optional[str] = ..., now_ns: _Optional[int] = ..., quote_msc: _Optional[int] = ...) -> None: ...
