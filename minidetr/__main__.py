"""`python -m minidetr` is the command `minidetr`."""

import sys

from minidetr.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
