"""What README and guides say holds: every block of Python runs, links lead somewhere, generated pages are current."""

import json
import re
import tomllib

import pytest
from guides import ENGLISH, GUIDES, PERSIAN, ROOT, blocks, commands, prose, run
from make_pages import PAGES

import keras_adaptive_weights as kaw
from keras_adaptive_weights.operating.command_line import main

NAMES = [path.relative_to(ROOT).as_posix() for path in ENGLISH]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_session", "graphs_as_traced")
@pytest.mark.parametrize("path", [path for path in ENGLISH if blocks(path, "python")], ids=lambda path: path.name)
def test_every_block_runs_in_order_and_so_do_the_commands_after_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(path)
    assert [main(command) for command in commands(path)] == [0] * len(commands(path))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1300


@pytest.mark.parametrize("path", [*ENGLISH, *PERSIAN], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(path))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize(("persian", "english"), PERSIAN.items(), ids=lambda path: path.name)
def test_a_persian_page_has_the_sections_blocks_and_names_of_the_english_one(persian, english):
    assert [code for _, code in blocks(persian)] == [code for _, code in blocks(english)]
    headings = [re.findall(r"^(#+) ", prose(page), re.MULTILINE) for page in (persian, english)]
    assert headings[0] == headings[1]
    names = [set(re.findall(r"`([^`\n]+)`", prose(page))) for page in (persian, english)]
    assert names[0] == names[1]
    assert persian.read_text(encoding="utf-8").startswith('<div dir="rtl">')


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_current(name):
    """Else: `python examples/guides/make_pages.py`."""
    assert (GUIDES / name).read_text(encoding="utf-8") == PAGES[name]()


def test_the_notebook_is_the_first_run_cell_by_cell():
    cells = json.loads((GUIDES / "first_run.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip() for _, block in blocks(GUIDES / "first_run.md", "python")]  # which run, see above


def test_every_reason_that_holds_a_weight_is_in_the_troubleshooting():
    text = (GUIDES / "troubleshooting.md").read_text(encoding="utf-8")
    of_changes = {
        *("loss_high", "loss_low", "gradients_growing", "gradients_above_threshold", "off_target", "measured_at_start"),
        *(reason.value for reason in kaw.Reason if reason.value.startswith(("trial_", "recovered_", "repeated_"))),
        *(reason.value for reason in kaw.Reason if reason.value.startswith(("weight_", "weighted_"))),
        *("manual", "nothing_to_roll_back"),
    }
    missing = [r.value for r in kaw.Reason if r.value not in of_changes and f"`{r.value}`" not in text]
    assert not missing


def test_the_source_distribution_has_every_page_and_what_it_shows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    pages = [*ENGLISH, *PERSIAN]
    shown = [page.parent / link for page in pages for link in re.findall(r"\]\(([^)#:]+)", prose(page))]
    needed = {path.resolve().relative_to(ROOT).as_posix() for path in (*pages, *shown)}
    assert [path for path in needed if not path.startswith((*packed, "LICENSE"))] == []
