"""
Command lines of `focal-compare` and `focal-plugin`.

The parsers import nothing of `focal_plugin`, which takes seconds because of PyTorch. So `--help`,
`--version` and a typo answer at once.
"""

from .command import MAX_LINE, message_of, shortened
from .compare import focal_compare
from .plugin import focal_plugin

__all__ = ["MAX_LINE", "focal_compare", "focal_plugin", "message_of", "shortened"]
