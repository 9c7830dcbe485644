"""A Terraform module that imports what an onboarding made, with live values.

The files under `module/` are fixed; for each key its variables and import blocks are written.
"""
