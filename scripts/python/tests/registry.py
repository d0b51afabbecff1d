"""An environment with packages from the registry, for tests that need them: made once, under target/."""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(PACKAGE, "..", "..", "target")
PACKAGES = [
    "mypy",
    "pyright[nodejs]",
    "fastapi",
    "httpx",
    "uvicorn",
    "gunicorn",
    "gevent",
    "flask",
    "django",
    "flask-limiter",
    "slowapi",
    "limits==5.8.0",
    # Of the tests of limits, which import the clients of other storages.
    "pytest",
    "pytest-asyncio",
    "pytest-lazy-fixtures",
    "flaky",
    "redis",
    "valkey",
    "pymemcache",
    "pymongo",
    # So that its source distribution can be had.
    "hatchling",
    "hatch-vcs",
]
#: In a separate environment: its proxy needs other versions of what is above. The version is the last one before those
#: of March 2026 that were tampered with.
LITELLM = ["litellm[proxy]==1.82.6"]


#: Whether it was said that all of this is left out.
_told = []


def _run(*command):
    return subprocess.run(command, capture_output=True, text=True)


def _holds(path, text):
    try:
        with open(path) as file:
            return file.read() == text
    except FileNotFoundError:
        return False


def environment(name="", packages=PACKAGES):
    """The directory of programs of an environment in which this package is installed as it is now; skips the test where
    the registry is out of reach, or packages from there are not wanted."""
    if os.environ.get("FLINT_PEERS") == "no":
        if not _told:
            _told.append(True)
            print("SKIPPED: what needs packages from the registry: scripts/test --peers")
        raise unittest.SkipTest("needs packages from the registry")
    where = os.path.abspath(os.path.join(TARGET, "python-%d.%d" % sys.version_info[:2] + name))
    pip = [os.path.join(where, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
    patience = ["--retries", "1", "--timeout", "15"]
    made = os.path.join(where, "made")
    wanted = "\n".join(packages)
    done = None
    if not _holds(made, wanted):
        done = _run(sys.executable, "-m", "venv", where)
        if done.returncode == 0:
            done = _run(*pip, "install", *patience, *packages)
    if done is None or done.returncode == 0:
        with tempfile.TemporaryDirectory(prefix="flint-package-") as directory:
            # A copy, so that what building leaves there is of this time only.
            copy = os.path.join(directory, "python")
            shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "tests", "__pycache__"))
            done = _run(*pip, "install", *patience, "--force-reinstall", "--no-deps", copy)
    if done.returncode != 0:
        print("SKIPPED: %s can't be installed: %s" % (", ".join(packages), done.stderr.strip()[-300:]))
        raise unittest.SkipTest("the registry is out of reach")
    with open(made, "w") as file:
        file.write(wanted)
    return os.path.join(where, "bin")


def litellm_environment():
    """The same for the tests of LiteLLM."""
    return environment("-litellm", LITELLM)


def sources(distribution):
    """The directory of a source distribution, ``NAME==VERSION``."""
    name = distribution.replace("==", "-")
    where = os.path.abspath(os.path.join(TARGET, "sources"))
    found = os.path.join(where, name)
    if not os.path.isdir(found):
        python = os.path.join(environment(), "python")
        alone = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--retries", "1", "--timeout", "15"]
        done = _run(python, "-m", "pip", "download", "-q", *alone, "-d", where, distribution)
        if done.returncode == 0:
            done = _run("tar", "-xf", found + ".tar.gz", "-C", where)
        if done.returncode != 0:
            print("SKIPPED: the sources of %s can't be had: %s" % (distribution, done.stderr.strip()[-300:]))
            raise unittest.SkipTest("the registry is out of reach")
    return found
