"""Entry point of the trainer, called by `train_net.py` and `python -m focal_plugin.engine`."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from detectron2.evaluation import verify_results
from detectron2.utils import comm

from .checkpoints.checkpointer import Checkpointer
from .command_line import argument_parser, checkpoint_options, refusals_in_words, setup
from .processes.launch import launch
from .trainer import Trainer


def main(args: argparse.Namespace) -> dict[str, Any]:
    """
    Train or evaluate in this process, as Detectron2's own `tools/train_net.py` does.

    Returns:
        the metrics of the last evaluation.
    """
    with refusals_in_words():
        cfg = setup(args)
        options = checkpoint_options(args)
        if args.eval_only:
            model = Trainer.build_model(cfg)
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, **options)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        else:
            trainer = Trainer(cfg, **options)
            trainer.resume_or_load(resume=args.resume)

    if not args.eval_only:
        return trainer.train()
    results = Trainer.test_all(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def invoke_main() -> None:
    """Parse the command line, and run :func:`main` in the requested number of processes."""
    args = argument_parser().parse_args()
    print("Command Line Args:", args)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
        timeout=timedelta(minutes=args.dist_timeout),
    )
