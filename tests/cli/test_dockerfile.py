"""The Dockerfile's commands, as far as they can run without building an image."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.deploy import PROJECT

DOCKERFILE = (PROJECT / "Dockerfile").read_text()


def instructions(word: str) -> list[str]:
    """The texts after this instruction, in order."""
    return re.findall(rf"^{word} (.+)$", DOCKERFILE, re.MULTILINE)


def test_the_images_user_is_a_number_and_owns_nothing_of_the_code() -> None:
    """So Kubernetes can verify that it is not root; root copied the code before."""
    (user,) = instructions("USER")
    assert user.isdecimal()
    assert f"--uid {user} " in " ".join(instructions("RUN"))
    assert DOCKERFILE.index("COPY . .") < DOCKERFILE.index("USER ")
    assert "--chown" not in DOCKERFILE


def test_the_image_has_the_python_of_the_tests() -> None:
    """The lock was made for this version."""
    assert instructions("FROM") == [
        f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    ]


def ignored(directory: str, names: list[str]) -> set[str]:
    """The files that .dockerignore keeps out of the build's context."""
    lines = [one for one in (PROJECT / ".dockerignore").read_text().splitlines() if one[0] != "#"]
    assert lines[0] == "*"
    kept = {one[1:] for one in lines if one.startswith("!")}
    everywhere = [one.removeprefix("**/") for one in lines if one.startswith("**/")]
    return {
        name
        for name in names
        if (Path(directory) == PROJECT and name not in kept)
        or any(fnmatch.fnmatch(name, one) for one in everywhere)
    }


def test_nothing_but_what_the_image_needs_is_in_it() -> None:
    """In particular no hidden file: Prefect would read a .env, with whatever server it names."""
    present = {one.name for one in PROJECT.iterdir()}
    kept = present - ignored(str(PROJECT), [*present, ".env", ".cmek", "terraform.tfstate"])
    assert {"prefect.yaml", "pyproject.toml", "requirements.lock", "flows"} <= kept
    assert not {one for one in kept if one.startswith(".")} | (kept & {"tests", "docs"})


def test_the_image_has_the_production_lock_and_the_program_that_verifies_signatures() -> None:
    """It has no tools and none of the sandbox's packages; pip downloads only hashed files."""
    requirements = [line for line in instructions("RUN") if "--requirement" in line]
    assert [line.split()[-1] for line in requirements] == ["requirements.lock"]
    assert {"--require-hashes", "--only-binary"} <= set(requirements[0].split())
    assert all("--no-deps" in line for line in instructions("RUN") if line.startswith("pip "))
    assert any("openssh-client" in line for line in instructions("RUN"))
    assert DOCKERFILE.index("openssh-client") < DOCKERFILE.index("USER ")


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_its_pip_commands_make_an_environment_in_which_its_command_starts(tmp_path: Path) -> None:
    """The environment is a virtual one, made only from the files that the image would get."""
    context = tmp_path / "cmek"
    shutil.copytree(PROJECT, context, ignore=ignored)
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    home = tmp_path / "home"
    home.mkdir()
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    } | {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "PREFECT_HOME": str(home)}
    pip = [command for command in instructions("RUN") if command.startswith("pip ")]
    assert len(pip) == 2
    (command,) = instructions("CMD")
    started = json.loads(command)
    for line in [*map(shlex.split, pip), [*started, "--help"], ["cmek", "deploy", "--help"]]:
        done = subprocess.run(
            line, cwd=context, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    entrypoints = "import flows.onboard, flows.revalidate, flows.discover, flows.watchdog, blocks"
    subprocess.run(["python", "-c", entrypoints], cwd=home, env=variables, check=True)
