"""Terraform that adopts what an onboarding made, from live values.

The module under `module/` is fixed text; what is written per key are its variables and the import
blocks.
"""
