"""Finds in Python source what could run code that stands in data: unpicklers, and loads that may use one."""

from __future__ import annotations

import ast

UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
"""Modules that make code, or objects that run it, of bytes."""


def dangers(source: str) -> list[str]:
    """Each with its line; words in strings and comments are none."""
    finder = _Finder()
    finder.visit(ast.parse(source))
    return finder.found


class _Finder(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[str] = []
        self._torch = {"torch"}
        self._safe: set[ast.expr] = set()

    def _note(self, node: ast.stmt | ast.expr, what: str) -> None:
        self.found.append(f"line {node.lineno}: {what}")

    def _note_module(self, node: ast.stmt | ast.expr, module: object) -> None:
        if isinstance(module, str) and module.split(".")[0] in UNPICKLERS:
            self._note(node, module)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note_module(node, alias.name)
            if alias.name == "torch" and alias.asname:
                self._torch.add(alias.asname)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level == 0:
            self._note_module(node, node.module)
        if node.module in ("torch", "torch.serialization") and {"load", "*"} & {alias.name for alias in node.names}:
            self._note(node, "torch.load under a name of its own")

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("__import__", "import_module") and node.args and isinstance(node.args[0], ast.Constant):
            self._note_module(node, node.args[0].value)
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg == "weights_only" and value is True:
                self._safe.add(node.func)
            if keyword.arg == "allow_pickle" and value is not False:
                self._note(node, "allow_pickle")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """``torch.load`` is safe as what a call with ``weights_only=True`` calls, and as nothing else."""
        words = ast.unparse(node).split(".")
        is_load = node.attr == "load" and words[0] in self._torch and words[1:-1] in ([], ["serialization"])
        if is_load and node not in self._safe:
            self._note(node, "torch.load without weights_only=True")
        self.generic_visit(node)
