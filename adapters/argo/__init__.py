"""Argo Workflows, through hera."""
