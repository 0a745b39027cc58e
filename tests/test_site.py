"""The pages as a site: every link holds, and nothing is asked of anybody."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from house import ROOT


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_build", ROOT / "docs/site/build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'moesaic[docs]'")
    to = tmp_path_factory.mktemp("site")
    assert builder.build(to) == 0
    return to / "html"


def test_the_site_is_built_without_a_warning_and_has_every_page(site: Path, builder: ModuleType) -> None:
    made = {
        file.relative_to(site).with_suffix("").as_posix().replace("index", "README") for file in site.rglob("*.html")
    }
    pages = {file.relative_to(ROOT).with_suffix("").as_posix() for file in builder.pages() if file.suffix == ".md"}
    assert pages <= made and (site / "docs/report.html").is_file()


def test_nothing_is_fetched_from_outside(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.search(r"(?:src|srcset)=\"?(?:https?:)?//|<link[^>]+href=\"?(?:https?:)?//", page.read_text()), (
            page
        )


def test_a_link_to_a_folder_of_results_leads_to_its_page(builder: ModuleType) -> None:
    text = builder.laid(ROOT / "docs/results.md")
    assert "](../bench/results/compress/smollm2-graded/report.html)" in text
    assert "](decisions/README.md)" in builder.laid(ROOT / "docs/how-it-works.md")


def test_a_link_that_leads_nowhere_ends_the_build(builder: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install 'moesaic[docs]'")
    assert builder.build(tmp_path, {"README.md": "[gone](docs/gone.md)\n"}) != 0
