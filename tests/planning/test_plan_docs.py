"""docs/plan.md prints what its command prints."""

from pathlib import Path

import pytest

from sdvae_ray.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_plan_of_the_docs_is_what_the_command_prints(capsys):
    text = (ROOT / "docs/plan.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("sdvae-ray plan jobs/configs/jump-plan.yaml"))
    block = text.split("```text\n")[1].split("```")[0]
    arguments = command.removeprefix("sdvae-ray ").replace("jobs/", f"{ROOT}/jobs/").split()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    printed = [
        line.rstrip() for line in capsys.readouterr().out.splitlines() if not line.startswith(("plan:", "note:"))
    ]
    assert printed == [line.rstrip() for line in block.splitlines()]
