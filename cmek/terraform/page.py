"""The module as a page for people."""

from __future__ import annotations

from collections.abc import Mapping

from cmek.markdown import code
from cmek.terraform.module import IMPORTS, VARIABLES

_HOW = (
    "Write these files with `cmek terraform WORKSPACE --out DIR`, then `terraform init` and "
    "`terraform plan` there: it must show imports and nothing to destroy. With the provider's own "
    "handling of labels the first plan may also show labels entering the state; applying that "
    "changes nothing at Google."
)


def terraform_page(workspace_id: str, module: Mapping[str, str]) -> str:
    """Markdown with every file; the two that hold live values come first."""
    names = sorted(module, key=lambda name: (name not in {IMPORTS, VARIABLES}, name))
    files = [f"## {code(name)}\n\n```{_language(name)}\n{module[name]}```" for name in names]
    return "\n\n".join([f"# Terraform for the key of {code(workspace_id)}", _HOW, *files])


def _language(name: str) -> str:
    return "json" if name.endswith(".json") else "hcl"
