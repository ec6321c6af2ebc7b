"""The Dagster runs that take a source all the way to a served release and a backtest, with progress for a person."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from assets.partitions import months_between, range_tags
from fx_dagster.commands import console
from fx_dagster.errors import DataError, ServerError
from fx_dagster.market.source import MarketSource
from resources.dagster_runs import CheckOutcome, RunLauncher, StepNews

RUN_TIMEOUT_S = 7200.0


@dataclass
class Pipeline:
    """Launches the jobs in order and remembers their runs.

    Attributes:
        launcher: of the running Dagster.
        source: where the data come from.
        runs: run ids by job, in order.
    """

    launcher: RunLauncher
    source: MarketSource
    runs: dict[str, list[str]] = field(default_factory=dict)

    def parts(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Return the whole way, in order: a name and what to call."""
        return (
            ("bars", self.ingest),
            ("features", self.compute_features),
            ("training", self.train),
            ("backtest", self.evaluate),
        )

    def ingest(self) -> None:
        """Load, validate and build bars of every symbol."""
        symbols = self._symbols()
        self.launcher.add_symbols(symbols)
        self._symbol_runs("Loading ticks, building bars", "ingest_job", symbols)

    def compute_features(self) -> None:
        """Compute indicators, features and labels of every symbol."""
        self._symbol_runs("Computing indicators, features and labels", "features_job", self._symbols())

    def train(self) -> None:
        """Fit and judge the models, build a release, serve it."""
        self._one_run("Training, judging and releasing the models", "training_job")

    def evaluate(self) -> None:
        """Backtest the system beside its control, and stress it."""
        self._one_run("Backtesting beside the traditional control, and under stress", "evaluation_job")

    def checks(self) -> list[CheckOutcome]:
        """Return what every check said in all runs so far."""
        return self.launcher.checks([run for runs in self.runs.values() for run in runs])

    def _symbols(self) -> tuple[str, ...]:
        symbols = self.source.symbols()
        if not symbols:
            raise DataError(f"the source {self.source.name} has no symbol that can be used", mend="see fx doctor")
        return symbols

    def _symbol_runs(self, text: str, job: str, symbols: Sequence[str]) -> None:
        with console.step(text) as step:
            runs = [
                self.launcher.submit(job, range_tags(symbol, months_between(*self.source.span(symbol))))
                for symbol in symbols
            ]
            self._follow(step, job, runs)
            step.result = ", ".join(symbols) if len(symbols) <= 8 else f"{len(symbols)} symbols"

    def _one_run(self, text: str, job: str) -> None:
        with console.step(text) as step:
            self._follow(step, job, [self.launcher.submit(job)])

    def _follow(self, step: console.Step, job: str, runs: list[str]) -> None:
        self.runs[job] = runs
        self.launcher.wait(runs, timeout_s=RUN_TIMEOUT_S, on_news=_teller(step))
        failed = [o for o in self.launcher.checks(runs) if not o.passed and o.severity == "ERROR"]
        if failed:
            first = failed[0]
            raise ServerError(
                f"check {first.check} of {first.asset} failed: {first.description}",
                mend="look at it on Dagster's page (fx up); nothing was learned from these data",
            )


def _teller(step: console.Step) -> Callable[[StepNews], None]:
    return lambda news: step.note(f"{news.symbol} {news.text}".strip())
