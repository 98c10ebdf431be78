"""Entry point of `python -m focal_plugin.doctor`, for a package that can be imported."""

import sys

from focal_plugin_doctor import main

if __name__ == "__main__":
    sys.exit(main())
