"""Evaluation protocols: which rows of a corpus are tested, and under which conditions. Each YAML file is one."""
