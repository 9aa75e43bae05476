"""One suite for every adapter and target; what one cannot do is a strict expected failure with a reason."""
