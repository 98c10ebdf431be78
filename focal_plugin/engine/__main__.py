"""Entry point `python -m focal_plugin.engine`: `train_net.py` for an installed package."""

from .train import invoke_main

if __name__ == "__main__":
    invoke_main()
