#!/usr/bin/env python3
"""
Train or evaluate a detector on one machine or several; the same flags as Detectron2's own script.

    python train_net.py --help
"""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from focal_plugin.engine import Trainer, argument_parser, setup


def main(args: argparse.Namespace) -> dict[str, Any]:
    cfg = setup(args)

    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def invoke_main() -> None:
    args = argument_parser().parse_args()
    print("Command Line Args:", args)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    invoke_main()
