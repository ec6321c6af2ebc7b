"""Reports on disk: each in a folder of its own, written aside and renamed, the newest under ``latest``."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from fx_dagster.errors import FxError
from fx_dagster.report.html import render_html
from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.summary import Summary

SUMMARY_NAME = "summary.json"
HTML_NAME = "report.html"
LATEST = "latest"


def write_summary(summary: Summary, folder: Path) -> Path:
    """Write ``summary.json`` into a folder, whole or not at all.

    Raises:
        FxError: it cannot be written; the message names the file.
    """
    return write_text(folder / SUMMARY_NAME, summary.model_dump_json(indent=2) + "\n")


def write_html(html: str, folder: Path) -> Path:
    """Write ``report.html`` into a folder, whole or not at all.

    Raises:
        FxError: it cannot be written; the message names the file.
    """
    return write_text(folder / HTML_NAME, html)


def switch_latest(folder: Path) -> Path:
    """Let ``latest``, beside ``folder``, mean that folder from one instant to the next.

    Raises:
        FxError: ``latest`` is something else than a link, or cannot be made.
    """
    link = folder.parent / LATEST
    if link.exists() and not link.is_symlink():
        raise FxError(f"{link} is not a link to a report", mend="move it away")
    aside = folder.parent / f".{LATEST}.{os.getpid()}"
    try:
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder.name, target_is_directory=True)
        aside.replace(link)
    except OSError as error:
        raise FxError(f"{link}: {error.strerror}", mend="put FX_HOME on a file system with symbolic links") from None
    return link


def report_folder(reports: Path, summary: Summary) -> Path:
    """Return the folder that a summary's report belongs in: named by when it was made."""
    return reports / f"{summary.created:%Y-%m-%dT%H-%M-%S}"


def publish(inputs: ReportInputs, folder: Path) -> Path:
    """Write summary and page into ``folder`` and switch ``latest`` to it.

    Both are written into a hidden folder that is then renamed, so that nobody sees one without the other. A report that
    is already there under that name is replaced.

    Returns:
        the page.

    Raises:
        FxError: something cannot be written; nothing half-written stays.
    """
    html = render_html(inputs)
    aside = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        write_summary(inputs.summary, aside)
        write_html(html, aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError as error:
        raise FxError(f"report {folder}: {error.strerror}", mend="free space, or set FX_HOME elsewhere") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    switch_latest(folder)
    return folder / HTML_NAME


def write_text(path: Path, text: str) -> Path:
    """Write a file aside and rename it, so that it is there whole or not at all.

    Raises:
        FxError: it cannot be written; the message names the file.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise FxError(f"{path}: {error.strerror}", mend="free space, or set FX_HOME elsewhere") from None
    return path
