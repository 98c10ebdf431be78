"""Entry point of the trainer, called by `train_net.py` and `python -m focal_plugin.engine`."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from detectron2.evaluation import verify_results
from detectron2.utils import comm

from .command_line import argument_parser, checkpoint_options, setup
from .config_checks import building_explained
from .evaluated_weights import load_model
from .processes.launch import launch
from .refusals import endings_in_words, refusals_in_words
from .shortages import warn_if_too_short
from .trainer import Trainer


def main(args: argparse.Namespace) -> dict[str, Any]:
    """
    Train or evaluate in this process, as Detectron2's own `tools/train_net.py` does.

    Returns:
        the metrics of the last evaluation.
    """
    with refusals_in_words(with_traceback=args.traceback):
        cfg = setup(args)
        with building_explained(cfg):
            if args.eval_only:
                model = load_model(cfg, args, checkpoint_options(args))
            else:
                trainer = Trainer(cfg, **checkpoint_options(args))
                trainer.resume_or_load(resume=args.resume)

    if not args.eval_only:
        results = trainer.train()
        warn_if_too_short(cfg)
        return results
    results = Trainer.test_all(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def invoke_main() -> None:
    """Parse the command line, and run :func:`main` in the requested number of processes."""
    args = argument_parser().parse_args()
    with endings_in_words():
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
            timeout=timedelta(minutes=args.dist_timeout),
        )
