"""`python -m keras_adaptive_weights`: the command line."""

import sys

from keras_adaptive_weights.operating.command_line import main

if __name__ == "__main__":
    sys.exit(main())
