"""The tables and folders that stages hand on."""
