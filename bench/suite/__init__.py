"""The timed suite: `pytest bench/suite`. Not part of the tests; nothing here asserts a duration."""
