"""The long proofs behind `make prove`; what is short of them runs with every test."""
