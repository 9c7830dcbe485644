"""What is true about keys, plans and APIs: no Prefect in here."""
