#!/usr/bin/env python3
"""
Train or evaluate a detector on one or several machines, with the flags of Detectron2's own script.

    python train_net.py --help
"""

import sys

if __name__ == "__main__":
    from focal_plugin_allocator import restart_with_tuned_allocator

    restart_with_tuned_allocator()
    try:
        from focal_plugin.engine.train import invoke_main
    except KeyboardInterrupt:  # PyTorch takes seconds
        sys.exit(130)
    invoke_main()
