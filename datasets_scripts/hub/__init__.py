"""A corpus as a folder of Parquet with a card, and its push to the Hub."""
