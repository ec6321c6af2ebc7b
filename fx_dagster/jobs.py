"""The jobs a person or a schedule starts. The live job is in ``live_job``."""

import dagster as dg

# Steps of one run hand large tables to each other through the lake, and take seconds: one process is quickest.
IN_PROCESS = dg.in_process_executor

ingest_job = dg.define_asset_job(
    "ingest_job",
    selection=dg.AssetSelection.groups("market_data"),
    executor_def=IN_PROCESS,
    description="Load ticks of one symbol's trading months, quarantine what is bad and build bars.",
)
features_job = dg.define_asset_job(
    "features_job",
    selection=dg.AssetSelection.groups("features"),
    executor_def=IN_PROCESS,
    description="Indicators, features and labels of one symbol's trading months.",
)
training_job = dg.define_asset_job(
    "training_job",
    selection=dg.AssetSelection.groups("models", "serving"),
    executor_def=IN_PROCESS,
    description="Fit every model, judge it out of sample, build a release and serve it.",
)
evaluation_job = dg.define_asset_job(
    "evaluation_job",
    selection=dg.AssetSelection.groups("evaluation"),
    executor_def=IN_PROCESS,
    description="Backtest the system beside the traditional control, stress it, and weigh it against all trials.",
)

drift_job = dg.define_asset_job(
    "drift_job",
    selection=dg.AssetSelection.groups("drift"),
    executor_def=IN_PROCESS,
    description="Compare what the live session sees and says with what its models learned on.",
)

research_job = dg.define_asset_job(
    "research_job",
    selection=dg.AssetSelection.groups("research"),
    executor_def=IN_PROCESS,
    description="Tree families on many histories, what features are worth, and a search of parameters.",
)

ASSET_JOBS = (ingest_job, features_job, training_job, evaluation_job, drift_job, research_job)
