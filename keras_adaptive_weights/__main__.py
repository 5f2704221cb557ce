"""`python -m keras_adaptive_weights`: the command line."""

import sys

from keras_adaptive_weights.cli import main

if __name__ == "__main__":
    sys.exit(main())
