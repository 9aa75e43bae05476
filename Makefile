# Everything the conformance suite asks on the kind cluster, its verdicts stored with the digest of each adapter.
.PHONY: conformance-kind
conformance-kind:
	.venv/bin/pytest -n 0 tests/conformance -k "not Local" -m kind --record-conformance docs/results
	.venv/bin/bench capabilities --write docs/capabilities.md

# The same on this machine, without a cluster.
.PHONY: conformance-local
conformance-local:
	.venv/bin/pytest -n 0 tests/conformance -k "Local" --record-conformance docs/results
	.venv/bin/bench capabilities --write docs/capabilities.md

# What the harness itself costs, for the report; some minutes, on a machine that does nothing else.
.PHONY: harness
harness:
	mkdir -p .bench
	.venv/bin/pytest -n 0 bench/suite/test_harness.py bench/suite/test_report_scale.py --benchmark-json .bench/harness-raw.json
	NOTE='$(NOTE)' .venv/bin/python -m bench.report.harness .bench/harness-raw.json docs/results/harness.json

# The k8s target against a cluster of yours, where `bench cluster install --context CONTEXT --with prefect` was before.
.PHONY: k8s-target
k8s-target:
	BENCH_CONTEXT=$(CONTEXT) .venv/bin/pytest -n 0 tests/k8s
