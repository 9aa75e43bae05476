"""What every adapter needs to run on this machine without Kubernetes."""
