"""From a network to its channel graph, proven by execution."""
