"""The cluster's usage, kept for quotas: how many units it holds and how large they are."""

from fleetd.scheduler.proposal import Proposal


def count_usage(proposal: Proposal) -> None:
    """Store the usage if it has changed."""
    usage = proposal.snapshot.measure_usage()
    if usage != proposal.snapshot.usage:
        proposal.last.append(usage)
