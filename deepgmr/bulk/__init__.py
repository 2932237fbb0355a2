"""Very many pairs, named in a table: answered on this machine or on a cluster, and never twice.

    from deepgmr.bulk import bulk
    bulk("pairs.parquet", "results.parquet", workers=2)

The same code answers in every engine: a process of its own registers pair after pair, so that one which crashes, hangs or
eats the memory costs itself alone. What is answered is kept in parts as it comes; whatever is killed, the next run goes on
with the pairs that have no answer yet.
"""

from deepgmr.bulk.pairs import Ask, read_pairs
from deepgmr.bulk.run import Summary, bulk

__all__ = ["Ask", "Summary", "bulk", "read_pairs"]
