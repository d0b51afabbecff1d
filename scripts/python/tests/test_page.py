"""man/flint-python.3 is true: its examples run unchanged, and its names are the package's. So do the examples of
README.md and of the package's own documentation."""

import inspect
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import unittest

import flint
import flint.testing
from support import FLINT, TOKEN, WithServer

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(PACKAGE, "..", "..", "man", "flint-python.3")


def page():
    with open(PAGE, encoding="utf-8") as file:
        return file.read()


def section(name):
    return re.search(r"^\.Sh %s\n(.*?)(?=^\.Sh |\Z)" % name, page(), re.M | re.S).group(1)


def plain(text):
    return text.replace("\\(dq", '"').replace("\\e", "\\")


class Page(WithServer):
    def test_examples_run_as_they_stand(self):
        examples = re.findall(r"^\.Bd -literal -offset indent\n(.*?)^\.Ed", section("EXAMPLES"), re.M | re.S)
        self.assertGreaterEqual(len(examples), 5)
        environment = {**os.environ, "FLINT_SERVER": self.server.url, "FLINT_SERVER_TOKEN": TOKEN}
        environment["PYTHONPATH"] = PACKAGE
        with tempfile.TemporaryDirectory(prefix="flint-page-") as directory:
            environment.update({"FLINT_BIN": os.path.abspath(FLINT), "XDG_RUNTIME_DIR": directory})
            printed = [self.output(plain(example), environment, directory) for example in examples]
        self.assertEqual(
            printed,
            [
                "go\nTrue 94\n",
                "True None\n",
                "99 99\n4\n",
                # None is lost.
                "sent to ann\n" * 7,
                "sent to bob\n" * 7,
                "[10, 1]\n",
                "working\n",
                "9\n",
                "10 of 10\n",
                "",
                "[True, True, False]\nTrue\n",
            ],
        )

    def output(self, program, environment, directory=None):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""), program)
        return done.stdout

    def test_examples_of_the_package(self):
        with open(os.path.join(PACKAGE, "README.md"), encoding="utf-8") as file:
            (readme,) = re.findall(r"^```python\n(.*?)^```", file.read(), re.M | re.S)
        (docstring,) = re.findall(r"\n\n((?:    .*\n)+)", flint.__doc__)
        environment = {**os.environ, "PYTHONPATH": PACKAGE}
        for example, printed in [(readme, "go\nTrue 94 0.0\n4\nsent to ann\nworking\n"), (textwrap.dedent(docstring), "")]:
            self.assertIn("http://127.0.0.1:7878", example)
            self.assertIn('token="%s"' % TOKEN, example)
            program = example.replace("http://127.0.0.1:7878", self.server.url)
            self.assertEqual(self.output(program, environment), printed)
            # For the next example, which starts from zero.
            self.limiter().remove("api:user-42")

    def test_every_public_name_stands_in_the_page(self):
        text = page()
        methods = {name for name in dir(flint.SharedLimiter) if not name.startswith("_")}
        twins = {name for name in methods if name.startswith("a") and name[1:] in methods}
        attributes = {name for name in dir(flint.CheckResult) if not name.startswith("_")}
        attributes |= set(inspect.signature(flint.CheckResult).parameters)
        attributes -= {"rate_limit_policy", "rate_limit"}
        attributes |= {name for name in dir(flint.Hold) if not name.startswith("_")} - {"asettle", "arenew"}
        for name in {*flint.__all__, *(methods - twins), *attributes}:
            self.assertRegex(text, r"\b%s\b" % re.escape(name))

    def test_the_synopsis_is_the_signatures(self):
        synopsis = " ".join(section("SYNOPSIS").split())
        checked = 0
        for owner, prefix, names in [
            (flint.SharedLimiter, "limiter.", [n for n in dir(flint.SharedLimiter) if not n.startswith("_")]),
            (flint, "flint.", ["SharedLimiter", "Guard", "ASGIMiddleware", "WSGIMiddleware", "client_address", "Server"]),
            (flint.testing, "flint.testing.", ["FakeLimiter"]),
            (flint.Hold, "hold.", ["settle", "renew"]),
        ]:
            for name in names:
                if prefix == "limiter." and name.startswith("a") and hasattr(owner, name[1:]):
                    continue
                parameters = []
                keyword_only = False
                for parameter in inspect.signature(getattr(owner, name)).parameters.values():
                    if parameter.name == "self":
                        continue
                    if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
                        parameters.append("*")
                        keyword_only = True
                    default = parameter.default
                    if parameter.kind is parameter.VAR_KEYWORD:
                        parameters.append("**" + parameter.name)
                        continue
                    if default is parameter.empty:
                        parameters.append(parameter.name)
                    elif default is flint.client_address:
                        parameters.append("%s=flint.client_address" % parameter.name)
                    else:
                        shown = '"%s"' % default if isinstance(default, str) else repr(default)
                        parameters.append("%s=%s" % (parameter.name, shown))
                expected = "%s%s(%s)" % (prefix, name, ", ".join(parameters))
                if expected.endswith("()"):
                    expected = expected[:-2] + "()"
                self.assertIn(expected, synopsis)
                checked += 1
        self.assertGreaterEqual(checked, 18)


if __name__ == "__main__":
    unittest.main()
