"""The `cmek` command."""
