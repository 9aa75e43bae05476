"""Prefect: flows of tasks, run by a worker's processes or in a process of one's own."""
