"""What the ``fx`` command can do.

Each module has ``register(app: typer.Typer) -> None``, which adds its commands, and imports at module level nothing
that takes long: ``fx --help`` loads them all.
"""
