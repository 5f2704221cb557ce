"""What all tests share. Nothing here imports TensorFlow before a test asks for it."""

import gc
import os
from importlib.metadata import version

import pytest
from fake_store import FakeStore, installed
from hypothesis import HealthCheck, settings
from mutations import FEW, MANY

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # the models are small, and tests run side by side
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "2")
# what XLA compiles runs but a few steps: compiling quickly matters more
XLA = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if int(version("tensorflow").split(".")[1]) >= 21:  # an earlier one may end at a flag that it does not know
    XLA += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", XLA)
gc.set_threshold(50_000, 10, 5)  # graphs are made of many objects: to look for dead ones so often takes much time

_common = {"deadline": None, "max_examples": 150, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("local", **_common)
settings.register_profile("deep", **{**_common, "max_examples": 5000})  # --hypothesis-profile=deep: for a night
settings.register_profile("ci", derandomize=True, database=None, **_common)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser):
    parser.addoption("--many", action="store_true", help=f"{MANY} mutations of each file instead of {FEW}")


def pytest_configure(config):
    """Let pytest-xdist hand the files out in the order below, not those with many tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Begin with the files that take long: side by side, no process then has one left when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, not {"keras", "tf"} & vars(item.module).keys()))


def pytest_collection_finish(session):
    """What the tests import is never dead: look for that among the rest only."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _only_its_own_objects(request):
    """To look through all that tests with TensorFlow left takes the others ten times as long as what they do."""
    if not {"keras", "tf"} & vars(request.module).keys():
        gc.freeze()


@pytest.fixture(scope="session")
def seeds(request):
    """A seed for each damage to a file that a test is to try."""
    return range(MANY if request.config.getoption("--many") else FEW)


@pytest.fixture
def seeded():
    """Python, NumPy and TensorFlow begin at the same seed; returns it."""
    import keras

    keras.utils.set_random_seed(20_250)
    return 20_250


@pytest.fixture
def store():
    """A store in memory, in the place of those that TensorFlow reaches."""
    with installed(FakeStore()) as store:
        yield store


@pytest.fixture
def all_tricks(monkeypatch):
    """For a test of what the tricks in `runtime` do, where the suite runs without them (`KAW_PLAIN=1`)."""
    monkeypatch.delenv("KAW_PLAIN", raising=False)


@pytest.fixture
def fresh_session():
    """No Keras state of an earlier test, and none left for a later one."""
    import keras

    keras.backend.clear_session(free_memory=False)  # to look for dead objects takes a second
    yield
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(scope="module")
def graphs_as_traced():
    """For tests of what is decided and recorded: graphs run as they are; to improve one takes longer than to run it."""
    import tensorflow as tf

    options = tf.config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": True})
    yield
    options.set_experimental_options({"disable_meta_optimizer": before})


@pytest.fixture(scope="module")
def shelf():
    """Keeps the traced models of a module until its end."""
    from traced_models import SHELF

    yield SHELF
    SHELF.clear()


@pytest.fixture
def traced_models(shelf):
    """For tests of what is decided and recorded: `make_model` hands out small models that were traced already."""
    shelf.open = True
    yield shelf
    shelf.open = False
    shelf.take_back()
