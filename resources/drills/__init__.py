"""Faults that an operator or a schedule makes on purpose in a running installation, and whether it stands them.

Each drill is a function over a :class:`resources.drills.scene.Scene`; :mod:`resources.drills.runner` runs one, keeps
its record, and refuses where it must not be run.
"""
