"""What other tools call a ratio, as the part that stays, and back: the only place that converts.

* preserve ratio: part that stays, (0, 1]. Ours, and PocketFlow's.
* pruning level, prune ratio: part that goes, 1 - preserve ratio. NNCF's and AMCT's.
* compression ratio: original / pruned, at least 1. AMCT's; AIMET calls pruned / original so.

Whether filters, FLOPs or bit operations are counted is another question, which the objective
answers. Twelve decimals are kept, so that a ratio comes back as it was.
"""

DECIMALS = 12


def preserve_ratio_of_pruning_level(level: float) -> float:
    """The part that stays, of the part that goes."""
    return round(1 - level, DECIMALS)


def pruning_level_of_preserve_ratio(ratio: float) -> float:
    """The part that goes, of the part that stays."""
    return round(1 - ratio, DECIMALS)


def preserve_ratio_of_compression_ratio(times: float) -> float:
    """The part that stays, of original / pruned."""
    return round(1 / times, DECIMALS)


def compression_ratio_of_preserve_ratio(ratio: float) -> float:
    """Original / pruned, of the part that stays."""
    return round(1 / ratio, DECIMALS)
