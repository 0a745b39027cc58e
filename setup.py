"""Builds the C++ kernels into the wheel, where there is a compiler: pyproject.toml has all the rest.

A wheel that carries them is of this platform; one without builds them when they are first used (kernels/native.py).
"""

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).resolve().parent


def _native() -> Any:
    """kernels/native.py, out of a package that is not installed yet."""
    package = ModuleType("moesaic_kernels")
    package.__path__ = [str(_ROOT / "kernels")]
    sys.modules[package.__name__] = package
    return import_module("moesaic_kernels.native")


class _BuildPy(build_py):
    """Puts the library beside the modules."""

    def run(self) -> None:
        super().run()
        if self.editable_mode or os.environ.get("MOESAIC_NATIVE") == "0":
            return
        native = _native()
        try:
            built = native.build_library(native.find_compiler(), native.cache_folder() / "native")
        except (native.NativeError, OSError, RuntimeError) as error:
            self.announce(f"the wheel carries no C++ kernels: {error}", level=3)
            return
        target = Path(self.build_lib) / "moesaic" / "kernels" / native.carried_library().relative_to(_ROOT / "kernels")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, target)


class _Distribution(Distribution):
    """What is of a platform, whether or not it has the library in the end."""

    def has_ext_modules(self) -> bool:
        return True


class _Wheel(bdist_wheel):
    """Any Python, this platform where the library is inside."""

    def get_tag(self) -> tuple[str, str, str]:
        inside = any(Path(self.bdist_dir).glob("moesaic/kernels/built/*.so"))
        return ("py3", "none", super().get_tag()[2] if inside else "any")


if __name__ == "__main__":
    setup(distclass=_Distribution, cmdclass={"build_py": _BuildPy, "bdist_wheel": _Wheel})
