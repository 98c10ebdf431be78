"""Export to Weights & Biases."""

from __future__ import annotations

import glob
import shlex
from pathlib import Path
from typing import Any

from .content import Exported
from .targets import project_name, require


def write(exported: Exported, out: Path) -> str:
    """
    Write one run for each run and one for the verdicts, see :class:`.Target`.

    A run whose folder is in ``out`` is left out. Its id is that of its folder, so another folder
    adds no second run to an account either. The environment of wandb applies, such as
    `WANDB_MODE=offline` and `WANDB_ENTITY`.
    """
    wandb = require("wandb")
    out.mkdir(parents=True, exist_ok=True)
    project = project_name(exported.name)
    common = {
        "project": project,
        "dir": str(out),
        "resume": "allow",
        "settings": wandb.Settings(console="off", silent=True),
    }
    try:
        for each in exported.runs:
            if any(out.glob(f"wandb/*run-*-{glob.escape(each.id)}")):
                continue
            run = wandb.init(
                **common,
                id=each.id,
                name=each.name,
                group=each.arm,
                job_type=each.role,
                config={**each.labels, **each.config},
            )
            for iteration, line in each.metrics.items():
                run.log(line, step=iteration)
            run.summary.update({f"final/{name}": value for name, value in each.final.items()})
            run.finish()
        _write_verdicts(wandb, exported, common, f"{project}-verdicts")
    except wandb.errors.Error as error:
        raise ValueError(f"wandb: {error}") from error
    if any(out.glob("wandb/offline-run-*")):
        files = f"{shlex.quote(str(out))}/wandb/offline-run-*"
        return f"The runs are in {out}/wandb; send them with `wandb sync {files}`."
    return f"The runs are in the project {project}."


def _write_verdicts(wandb: Any, exported: Exported, common: dict[str, Any], run_id: str) -> None:
    header, *rows = exported.verdicts
    run = wandb.init(**common, id=run_id, name="verdicts", job_type="verdicts")
    run.log({"verdicts": wandb.Table(columns=list(header), data=[list(row) for row in rows])})
    run.finish()
