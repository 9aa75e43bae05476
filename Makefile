# Everything the conformance suite asks on the kind cluster, its verdicts stored with the digest of each adapter.
.PHONY: conformance-kind
conformance-kind:
	.venv/bin/pytest -n 0 tests/conformance -k "not Local" -m kind --record-conformance docs/results
	.venv/bin/bench capabilities --write docs/capabilities.md

# The k8s target against a cluster of yours, where `bench cluster install --context CONTEXT --with prefect` was before.
.PHONY: k8s-target
k8s-target:
	BENCH_CONTEXT=$(CONTEXT) .venv/bin/pytest -n 0 tests/k8s
