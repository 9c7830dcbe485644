"""What a run leaves behind for auditors: a hash-chained record, and where else to look."""
