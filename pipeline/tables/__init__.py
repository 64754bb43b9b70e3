"""The tables and folders that stages exchange."""
