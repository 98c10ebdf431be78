#!/usr/bin/env python3
"""
Train or evaluate a detector on one or several machines, with the flags of Detectron2's own script.

    python train_net.py --help
"""

from focal_plugin.engine.train import invoke_main

if __name__ == "__main__":
    invoke_main()
