"""What the pages say of the code is still so."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from app.api.application import build
from app.api.metrics import RequestStats, WorkerMetrics, render
from app.cache.stats import Stats
from app.cli import COMMANDS
from app.settings import PREFIX, Settings
from tests.docs.generate import DOCS, TABLES
from tests.docs.tables import block

ROOT = DOCS.parent
FOLDERS = ("*.md", "docs/**/*.md", "tests/*.md", "benchmarks/*/README.md", "packaging/*/README.md")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(folder))
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_PATH = re.compile(
    r"`((?:\.ci|app|alembic|benchmarks|compose|deploy|docs|examples|model|packaging|tests)/[A-Za-z0-9_./-]+)`"
)
TARGET = re.compile(r"(?:`|^)make (?:[A-Z]+=\S+ )*([a-z-]+)", re.MULTILINE)
MODULE = re.compile(r"python3? -m ((?:app|tests|benchmarks)[\w.]*)")
VERB = re.compile(r"(?:`|^)(?:\.venv/bin/)?larder ([a-z]+)", re.MULTILINE)
CALL = re.compile(r"`((?:POST|GET|PUT|PATCH|DELETE) )?(/[^`?]*)(?:\?[^`]*)?`")
METRIC = re.compile(r"\blarder_[a-z]+_[a-z_]+[a-z]\b")
VARIABLE = re.compile(rf"\b{PREFIX}[A-Z_]+[A-Z]\b")
GONE = {"LARDER_WRITE_LANES", "LARDER_WRITE_LANE_PATIENCE_MS", "audit", "catalogue", "replay"}
"""Settings and verbs of earlier releases, which the changes and the upgrade name."""
PROSE_WIDTH = 160

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.guarantee("G6")
@pytest.mark.parametrize(("page", "name"), TABLES, ids="-".join)
def test_a_generated_table_is_that_of_the_code(page: str, name: str) -> None:
    """A table that is made from code or data is neither edited by hand nor forgotten."""
    assert block((DOCS / page).read_text(encoding="utf-8"), name) == TABLES[page, name](), "run `python -m tests.docs.generate`"


@each_page
def test_a_link_leads_somewhere(page: Path) -> None:
    """Every relative link of a page is a file of this checkout and, where it names one, a heading of that file."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if not link.startswith(("http:", "https:", "/")) and not (
            target.exists() and (not heading or heading in headings(target))
        ):
            broken.append(link)
    assert broken == []


@each_page
def test_what_a_page_names_exists(page: Path) -> None:
    """Every file of ours, make target, module, verb of `larder` and variable that a page names is there."""
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert [path for path in NAMED_PATH.findall(text) if not (ROOT / path).exists()] == []
    assert set(TARGET.findall(text)) <= targets
    assert set(VERB.findall(text)) <= COMMANDS.keys() | (GONE if page.name == "CHANGELOG.md" else set())
    assert [name for name in MODULE.findall(text) if importlib.util.find_spec(name.rstrip(".")) is None] == []
    assert set(VARIABLE.findall(text)) <= {PREFIX + name.upper() for name in Settings.model_fields} | GONE


def _with_name_of_id(path: str) -> str:
    return path.replace("{id}", "{reservation_id}" if path.startswith("/reservations") else "{product_id}")


def test_the_page_of_the_api_has_every_path() -> None:
    """docs/HTTP.md names every path that the API describes, and only such."""
    operations = (DOCS / "HTTP.md").read_text(encoding="utf-8").split("## Operations")[1].split("## Keys")[0]
    named = {_with_name_of_id(path) for _, path in CALL.findall(operations)}
    pages = {"/dashboard", "/docs", "/problems", "/problems/{slug}"}
    assert named - pages == build("1", RequestStats()).openapi()["paths"].keys() - pages


def test_a_metric_that_is_named_exists() -> None:
    """docs/OPERATIONS.md tells people to watch metrics that are there."""
    shown = render(WorkerMetrics(caches={"n": Stats(last_audit=0.0, last_proven=0.0)})).decode()
    named = set(METRIC.findall((DOCS / "OPERATIONS.md").read_text(encoding="utf-8")))
    assert len(named) > 15
    assert [name for name in named if f"# TYPE {name} " not in shown] == []


def test_one_release_is_named_everywhere() -> None:
    """The newest entry of CHANGELOG.md is the version of the package, the image's label, and the tag of each deployment."""
    [newest, *_] = re.findall(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    label = re.findall(r'image\.version="(.+)"', (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    deployments = [*(ROOT / "deploy" / "kubernetes").rglob("kustomization.yaml"), DOCS / "KUBERNETES.md"]
    tags = {tag for path in deployments for tag in re.findall(r"newTag: ([^\s}]+)", path.read_text(encoding="utf-8"))}
    assert (package, label, tags) == (newest, [newest], {newest})


@each_page
def test_prose_is_no_wider_than_a_screen(page: Path) -> None:
    """A line that is too long hides what changed in it; tables cannot be broken."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > PROSE_WIDTH and not line.startswith("|")] == []


def headings(page: Path) -> set[str]:
    """The anchors that a Markdown renderer makes of a page's headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}
