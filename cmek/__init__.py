"""The domain: rules, plan, gate, signatures, evidence, API clients. It never imports Prefect."""
