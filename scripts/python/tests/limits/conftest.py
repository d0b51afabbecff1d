"""Stands in the place of the configuration of the tests of the package ``limits``, whose Docker fixtures it replaces:
each of its tests runs on one storage only, Flint. The tests themselves are unchanged.

FLINT_SERVER names the server, FLINT_SERVER_TOKEN the token. What names the storage of another program is left out, and
listed at the end.
"""

import os

import pytest
import tests.utils
from limits.storage import storage_from_string

import flint.limits

HOST = os.environ["FLINT_SERVER"][len("http://") :]
TOKEN = os.environ["FLINT_SERVER_TOKEN"]


def parameters(scheme):
    uri = "%sflint://:%s@%s" % (scheme, TOKEN, HOST)
    return pytest.mark.parametrize("uri, args, fixture", [pytest.param(uri, {"timeout": 5}, None, id="flint")])


for name in ("all_storage", "moving_window_storage", "sliding_window_counter_storage"):
    setattr(tests.utils, name, parameters(""))
    setattr(tests.utils, "async_" + name, parameters("async+"))

left_out = []


def pytest_pycollect_makeitem(collector, name, obj):
    if name == "TestConcreteStorages":
        scheme, kind = "", flint.limits.FlintStorage
        if obj.__module__.startswith("tests.aio."):
            scheme, kind = "async+", flint.limits.AsyncFlintStorage
        marks = [mark for mark in obj.pytestmark if mark.name != "parametrize"]
        for mark in obj.pytestmark:
            if mark.name == "parametrize":
                left_out.extend("%s::%s[%s]" % (obj.__module__, name, each.id) for each in mark.args[1])
        uri = "%sflint://:%s@%s" % (scheme, TOKEN, HOST)
        instance = pytest.param(uri, {"timeout": 5}, kind, None, id="flint")
        mark = pytest.mark.parametrize("uri, args, expected_instance, fixture", [instance])
        obj.pytestmark = [*marks, mark.mark]


def pytest_terminal_summary(terminalreporter):
    for each in left_out:
        terminalreporter.write_line("LEFT OUT: %s" % each)


@pytest.fixture(autouse=True)
def anew():
    """Each test begins with nothing counted."""
    storage_from_string("flint://:%s@%s" % (TOKEN, HOST), timeout=5).reset()
