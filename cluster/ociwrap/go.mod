module bench.local/ociwrap

go 1.25.0
