"""What production copies: work-pool templates, roles, automations."""
