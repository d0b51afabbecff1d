"""The modules of the package import each other in one direction only, for types too."""

import ast
import pathlib
import unittest

import flint


def imports(path):
    """The modules of the package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found.update([node.module] if node.module else [name.name for name in node.names])
    return found


class Modules(unittest.TestCase):
    def test_no_module_imports_itself_through_others(self):
        package = pathlib.Path(flint.__file__).parent
        left = {path.stem: imports(path) for path in package.glob("*.py")}
        self.assertGreater(len(left), 10)
        self.assertTrue({"_client", "middleware"} <= left["__init__"])
        while left:
            lowest = [name for name, used in left.items() if not used & left.keys()]
            self.assertTrue(lowest, "a circle of imports is among %s" % {n: u & left.keys() for n, u in left.items()})
            for name in lowest:
                del left[name]


if __name__ == "__main__":
    unittest.main()
