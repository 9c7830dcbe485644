"""Evidence for auditors: a hash-chained record, and queries of other logs."""
