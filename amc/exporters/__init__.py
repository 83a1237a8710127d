"""Files of a network for other runtimes, each of them proven equal once it is written."""
