"""Automations that `cmek automations install` puts on the server."""
