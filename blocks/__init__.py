"""Prefect blocks: credentials and endpoints, handing out `cmek` clients."""
