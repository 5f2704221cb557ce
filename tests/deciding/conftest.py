"""What is worked out once a process is worked out anew in each test, so that a mutant of it is seen."""

import pytest

from keras_adaptive_weights.deciding import config, plain_records, statistics


@pytest.fixture(autouse=True)
def nothing_remembered():
    for cached in (config._smoothing_steps, plain_records._fields, statistics._slope_weights):
        cached.cache_clear()
