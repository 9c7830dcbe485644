"""The automations that `cmek automations install` installs, in Prefect's own format."""
