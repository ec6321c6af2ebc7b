"""What the blocking checks of assets said when these were last materialised."""

from collections.abc import Sequence

import dagster as dg


def blocking_results(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> dict[str, bool]:
    """Return whether each check of some assets passed, by ``asset check``; warnings that failed are left out.

    Looked at are the checks of the run that materialised an asset last; an asset that never was has none.
    """
    found: dict[str, bool] = {}
    for key in keys:
        event = instance.get_latest_materialization_event(key)
        if event is None:
            continue
        records = instance.get_records_for_run(event.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
        for record in records:
            happened = record.event_log_entry.dagster_event
            said = happened.asset_check_evaluation_data if happened is not None else None
            if said is None or said.asset_key != key:
                continue
            if said.passed or said.severity is dg.AssetCheckSeverity.ERROR:
                found[f"{key.to_user_string()} {said.check_name}"] = bool(said.passed)
    return found
