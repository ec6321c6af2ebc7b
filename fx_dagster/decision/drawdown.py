"""Drawdown stages with hysteresis: reduce, halve and tighten stops, close only, flatten and halt.

A stage begins the moment its threshold is touched. Stages 1 and 2 end when drawdown is back under a share of their
threshold. Close-only would hold itself for ever, since without positions equity cannot recover: after
``breaker_hours`` with a flat book it is released to stage 2, on probation: it trips again after a small further loss,
so that at most a few releases lie between close-only and halt. Halt ends only when a person resumes.
"""

from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Stage

_HALVE = int(Stage.HALVE)
_CLOSE_ONLY = int(Stage.CLOSE_ONLY)
_HALT = int(Stage.HALT)


@compiled
def next_stage(
    stage: int, drawdown: float, thresholds: tuple[float, ...], exit_share: float, released: float, retrip: float
) -> int:
    """Return the stage at this drawdown (fraction of peak equity); never falls with a deeper drawdown.

    Args:
        stage: stage until now.
        drawdown: 1 − equity / peak.
        thresholds: where stages 1 … 4 begin, ascending.
        exit_share: a stage ends below this share of its threshold.
        released: drawdown at which close-only was released; 0: it was not.
        retrip: further drawdown after a release that trips close-only again.
    """
    if stage == _HALT or drawdown >= thresholds[_HALT - 1]:
        return _HALT
    close_only_at = thresholds[_CLOSE_ONLY - 1]
    if released > 0.0:
        close_only_at = max(close_only_at, released + retrip)
    if drawdown >= close_only_at:
        return _CLOSE_ONLY
    reached = 0
    for k in range(_HALVE, 0, -1):
        if drawdown >= thresholds[k - 1]:
            reached = k
            break
    while stage > reached and drawdown < thresholds[stage - 1] * exit_share:
        stage -= 1
    return max(stage, reached)


@compiled
def releasable(stage: int, since: int, time: int, wait_ns: int, flat: bool) -> bool:
    """Return whether close-only has been held long enough without a position to be released to stage 2."""
    return stage == _CLOSE_ONLY and flat and time - since >= wait_ns
