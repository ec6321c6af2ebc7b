"""What is computed: Dagster assets and their checks, from raw ticks to the backtest."""

import warnings

from dagster_shared.utils.warnings import BetaWarning, PreviewWarning

# Partitioned checks and back-fill policies are marked beta or preview; what they do is pinned by lock file and tests.
warnings.filterwarnings("ignore", category=BetaWarning)
warnings.filterwarnings("ignore", category=PreviewWarning)
