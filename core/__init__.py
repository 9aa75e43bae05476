"""The pipeline that every orchestrator runs: its steps, and the ledger, registry and serving they need."""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # before numpy: one thread everywhere, so user time compares
