"""The command `aver`."""
