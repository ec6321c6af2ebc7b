"""One compiled decision step for live trading and backtests.

Read in this order: :mod:`codes` (what a decision may say), :mod:`rows` (what goes in and out), :mod:`config`
(numbers), :mod:`step` (the step), :mod:`record` (what the journal keeps).
"""
