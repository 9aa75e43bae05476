# Everything the conformance suite asks on the kind cluster, its verdicts stored with the digest of each adapter.
.PHONY: conformance-kind
conformance-kind:
	.venv/bin/pytest -n 0 tests/conformance -k "not Local" -m kind --record-conformance docs/results
	.venv/bin/bench capabilities --write docs/capabilities.md
