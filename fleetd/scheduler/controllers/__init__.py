"""The leader's controllers, each a decision about the whole cluster. planner.py lists them in the order they run."""
