"""`python -m focal_plugin.doctor`: the doctor, where the package itself can be imported."""

import sys

from focal_plugin_doctor import main

if __name__ == "__main__":
    sys.exit(main())
