"""The docs: Sphinx builds them without a warning, every command in them parses, and every message that they quote exists."""

import ast
import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from sdvae_ray.cli.main import app
from sdvae_ray.config import RunConfig
from sdvae_ray.dictionary import TABLES
from sdvae_ray.distributions.between import DISTANCES, FACTS
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import SCORE_TABLES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = get_command(app).commands
# first words of lines that no test of this file looks at: the shell's own, and programs of clouds and schedulers, whose lines
# tests/cluster holds to their schemas as far as a machine without an account can
SHELL = {
    "export",
    "for",
    "do",
    "done",
    "echo",
    ".",
    "cat",
    "pip",
    "aws",
    "kubectl",
    "docker",
    "ray",
    "sbatch",
    "ssh",
    "git",
    "uvx",
    "python3.11",
}


def blocks(page: Path, language: str = "bash") -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.S | re.M)


def lines_of(block: str) -> Iterator[list[str]]:
    """The words of every command of a block: a line, or several that a backslash or a quotation holds together."""
    block = re.sub(r"<<(\w+)\n.*?\n\1\n", "\n", block, flags=re.S)  # a file that is typed in
    waiting = ""
    for line in block.splitlines():
        waiting = f"{waiting}\n{line}" if waiting else line
        if waiting.endswith("\\"):
            waiting = waiting[:-1]
            continue
        try:
            words = shlex.split(re.sub(r"\$\([^)]*\)| > \S+", " SUBSTITUTED ", waiting), comments=True)
        except ValueError:  # the quotation goes on
            continue
        waiting = ""
        for is_end, part in itertools.groupby(words, lambda word: word in ("&&", ";", "|")):
            if not is_end:
                yield list(part)
    assert not waiting, f"a quotation without an end: {waiting}"


def commands() -> list[tuple[str, list[str]]]:
    """The page, and the words, of every line that begins with a word that SHELL does not have; of a line that submits a job, the
    job's."""
    found = []
    for page in PAGES:
        for words in itertools.chain.from_iterable(map(lines_of, blocks(page))):
            own = words[words.index("--") + 1 :] if words[0] == "ray" and "--" in words else words
            if re.match(r"\w+=", own[0]):
                continue
            if own[0] == "sbatch" and "jobs/slurm.sh" in own:
                own = ["sdvae-ray", "run", *own[own.index("jobs/slurm.sh") + 1 :]]
            if own[0] not in SHELL:
                found.append((str(page.relative_to(ROOT)), own))
    return found


FOUND = commands()


def wrong(words: list[str]) -> str | None:
    """What is wrong with a command; None where nothing is."""
    program, *arguments = words
    if program == "make":
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M)
        return next((f"no target {name}" for name in arguments if "=" not in name and name not in targets), None)
    if program == "python":
        script = ROOT / arguments[0]
        if not script.is_file():
            return f"no file {arguments[0]}"
        if script.parent.name == "jobs":
            return wrong(["sdvae-ray", script.stem, *arguments[1:]])
        known = set(re.findall(r'"(--[\w-]+)"', script.read_text()))
        return next(
            (f"{script.name} has no {word}" for word in arguments if word.startswith("--") and word not in known), None
        )
    if program != "sdvae-ray":
        return f"{program} is in no list of this test"
    if not arguments or arguments[0] not in COMMANDS:
        return None if arguments in ([], ["-h"], ["COMMAND", "-h"]) else f"no command {arguments[0]}"
    name, *given = (word for word in arguments if word not in ("...", "RUN..."))
    if arguments[0] in ("conclude", "score") and "RUN..." in arguments:
        given = ["RUN", *given]
    try:
        COMMANDS[name].make_context(name, [*given])
    except Exception as error:  # noqa: BLE001  typer carries a click of its own, unnamed
        return error.format_message()
    sets = [value for option, value in itertools.pairwise(given) if option == "--set"]
    return next((f"--set {each}" for each in sets if each.partition("=")[0].split(".")[0] not in KEYS), None)


KEYS = {*RunConfig.model_fields, "ladder"}


@pytest.mark.parametrize(("page", "words"), FOUND, ids=[f"{page}: {shlex.join(words)[:60]}" for page, words in FOUND])
def test_every_command_of_the_docs_parses(page, words):
    assert wrong(words) is None


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_bash_can_read_every_block_of_a_page(page):
    for block in blocks(page):
        subprocess.run(["bash", "-n", "-c", block], check=True)


# pages whose commands are executed by the tests there (of plan.md: the one whose output it has); of others they are parsed alone
EXECUTED = {
    "tutorial-field.md": "tests/cli/test_tutorials.py",
    "tutorial-gallery.md": "tests/cli/test_tutorials.py",
    "plan.md": "tests/planning/test_plan_docs.py",
    "cluster.md": "tests/cluster/test_cluster_yaml.py",
}


@pytest.mark.parametrize("page", EXECUTED)
def test_the_test_that_executes_a_page_names_it(page):
    assert (ROOT / "docs" / page).is_file()
    assert page in (ROOT / EXECUTED[page]).read_text()


def test_a_command_that_does_not_parse_is_seen():
    assert wrong(["sdvae-ray", "encoed", "run.yaml"]) == "no command encoed"
    assert "--ouput" in str(wrong(["sdvae-ray", "decode", "RUN", "--fov", "x", "--ouput", "y"]))
    assert "fovs" in str(wrong(["sdvae-ray", "bench", "run.yaml", "--fovs", "many"])).lower()
    assert wrong(["sdvae-ray", "run", "run.yaml", "--set", "encod.actors=1"]) == "--set encod.actors=1"
    assert wrong(["python", "benchmarks/verdicts.py", "--repeat", "3"]) == "verdicts.py has no --repeat"
    assert wrong(["make", "tset"]) == "no target tset"
    assert list(lines_of("a --x 'b\nc' \\\n d  # e\nf")) == [["a", "--x", "b\nc", "d"], ["f"]]


def test_the_commands_of_the_readmes_table_are_all_commands_and_exist():
    named = set(re.findall(r"^\| `sdvae-ray (\w+)", (ROOT / "README.md").read_text(), re.M))
    assert named == set(COMMANDS) - {"demo"}


# Messages


def code() -> str:
    """The package's code, with the strings that stand below each other joined as Python joins them."""
    texts = [path.read_text() for path in sorted((ROOT / "sdvae_ray").rglob("*.py"))]
    return re.sub(r"\"\n\s*f?\"", "", "\n".join(texts))


def test_every_message_of_troubleshooting_is_one_of_the_code():
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert len(rows) > 30
    lines = code()
    assert [row for row in rows if not said(row, lines)] == []
    assert not said("unknown kee …", lines)
    assert not said("crop … is not a multiple of lunch …", lines)


def said(message: str, lines: str) -> bool:
    """Whether a line of the code has the parts of a message in their order; … stands for a value."""
    return re.search("[^\n]*?".join(map(re.escape, message.strip("…").split("…"))), lines) is not None


# What is made from the code


def test_every_key_column_and_distance_has_its_description():
    undescribed, waiting = [], [("", RunConfig)]
    while waiting:
        path, model = waiting.pop()
        for name, field in model.model_fields.items():
            inner = [
                each
                for each in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if hasattr(each, "model_fields")
            ]
            waiting += [(f"{path}{name}.", each) for each in inner]
            if not field.description and not (inner and inner[0].__doc__):
                undescribed.append(f"{path}{name}")
    assert undescribed == []
    assert all(meaning and kind for table in TABLES.values() for kind, meaning in table.columns.values())
    assert {*SCORE_TABLES} < {*TABLES}
    assert {*FACTS} == {number for numbers in DISTANCES.values() for number in numbers} | {"kid_paired"}


def test_the_notebook_compiles_and_asks_a_run_for_what_it_has():
    cells = json.loads((ROOT / "docs/notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    asked = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    of_run = {node.attr for node in asked if node.value.id == "run"}
    assert len(of_run) > 5
    assert all(hasattr(Run, name) or name in Run.__dataclass_fields__ for name in of_run)
    assert all(not cell.get("outputs") for cell in cells)


def test_sphinx_builds_the_docs_without_a_warning(tmp_path, capfd):
    """Links between pages, their anchors and images are looked up as pages are read: a broken one is a warning."""
    build = pytest.importorskip("sphinx.cmd.build")
    before = sys.path.copy()
    code = build.build_main(
        ["-q", "-W", "--keep-going", "-b", "dummy", "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path)]
    )
    sys.path[:] = before
    assert code == 0, capfd.readouterr().err
