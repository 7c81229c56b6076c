"""The agent brings one machine to its desired state: observe, plan (in reconciler/), execute, report."""
