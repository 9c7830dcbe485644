"""The module by itself: layout, schema, the rules of its variables."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from cmek.terraform.module import render_module, write_module
from tests.terraform.command import BINARY, needs_terraform
from tests.terraform.conftest import Bench

RULES = Path(__file__).parent / "module.tftest.hcl"


@needs_terraform
def test_what_is_written_is_laid_out_as_terraform_fmt_does(bench: Bench) -> None:
    """Also for two keys, one without a rotation; and so are the rules of these tests."""
    bench.onboard(bench.new_workspace("one"), rotation_period=None)
    bench.onboard(bench.new_workspace("two"), bench.new_workspace("three"), key="another")
    write_module(render_module(bench.read()), bench.terraform.folder)
    shutil.copy(RULES, bench.terraform.folder)
    assert bench.terraform.run("fmt", "-check", "-diff", "-recursive") == ""


@needs_terraform
def test_the_module_is_valid_and_a_misspelt_argument_is_not(bench: Bench) -> None:
    """`validate` knows every documented argument, and so finds a misspelt one."""
    bench.onboard(bench.rig.fresh_workspace())
    bench.export()
    assert "Success" in bench.terraform.run("validate")
    main = bench.terraform.folder / "main.tf"
    main.write_text(main.read_text().replace("rotation_period ", "rotation_perid "))
    assert "rotation_period" in bench.terraform.run("validate", fails=True)


@needs_terraform
def test_the_variables_refuse_what_anthropic_would(bench: Bench) -> None:
    """`terraform test`, with a mocked provider, has one run for each rule."""
    bench.export()
    shutil.copy(RULES, bench.terraform.folder)
    assert "6 passed, 0 failed" in bench.terraform.run("test")


@pytest.mark.skipif(
    BINARY is not None, reason="terraform is installed and says more than a parser would"
)
def test_without_terraform_the_files_at_least_parse(bench: Bench) -> None:
    """A parser that is not ours reads each file as HCL or JSON."""
    if importlib.util.find_spec("hcl2") is None:
        pytest.skip("neither terraform nor python-hcl2 is installed, so nothing reads the HCL")
    hcl2 = importlib.import_module("hcl2")
    bench.onboard(bench.rig.fresh_workspace())
    for name, text in render_module(bench.read()).items():
        assert json.loads(text) if name.endswith(".json") else hcl2.loads(text), name
