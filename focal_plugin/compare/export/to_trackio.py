"""Export to trackio."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from .content import Exported
from .targets import project_name, require

VERDICTS = "verdicts"
"""Name of the run with the table of verdicts."""


def write(exported: Exported, out: Path) -> str:
    """
    Write one run for each run and one for the verdicts, see :class:`.Target`.

    They are in the SQLite store of ``out``, unless the environment has a `TRACKIO_SPACE_ID` or a
    `TRACKIO_SERVER_URL`.
    """
    os.environ.setdefault("TRACKIO_DIR", str(out.absolute()))  # read when trackio is imported
    trackio = require("trackio")
    pandas = require("pandas")
    project = project_name(exported.name)
    known = _known_runs(trackio, project)
    quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    for run in exported.runs:
        if run.id in known:
            continue
        config = {**run.labels, **run.config}
        trackio.init(project, name=run.id, group=run.arm, config=config, **quiet)
        for iteration, line in run.metrics.items():
            trackio.log(line, step=iteration)
        last = max(run.metrics, default=0)
        trackio.log({f"final/{name}": value for name, value in run.final.items()}, step=last)
        trackio.finish()
    header, *rows = exported.verdicts
    trackio.init(project, name=VERDICTS, resume="allow", **quiet)
    trackio.log({VERDICTS: trackio.Table(dataframe=pandas.DataFrame(rows, columns=header))})
    trackio.finish()
    command = f"TRACKIO_DIR={shlex.quote(os.environ['TRACKIO_DIR'])} trackio show"
    return f"The runs are in {os.environ['TRACKIO_DIR']}; see them with `{command}`."


def _known_runs(trackio: Any, project: str) -> set[str]:
    try:
        return {run.name for run in trackio.Api().runs(project)}
    except ValueError:  # there is no such project yet
        return set()
