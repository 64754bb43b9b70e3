"""Find leaks: data of test that also occurs in train or dev."""
