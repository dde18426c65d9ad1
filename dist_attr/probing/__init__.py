"""In-context probing: what a source's documents do to an answer by merely standing in the prompt.

Design decisions:
- A long document is cut into windows of equal length, and no window is dropped: what is too long is never cut in
  silence, and what does not fit the context is an error.
- The template's beginning, the passage, the rest of the template with the prompt, and the completion are tokenised
  separately and joined: which tokens are scored depends on nothing but the query, and what is computed for a passage
  is exactly what the whole prompt would compute.
- The completion without a passage is tokenised as the readout does it, so that both speak of the same tokens.
- What the layers made of a passage (keys and values) is computed once for all queries after it, in batches of passages,
  and the last used are remembered. So it is for a single query too: reading its prompts whole, in batches, takes the
  same tokens and was measured to be no faster.
- Queries after the same passage share rows, each blind to the others, so that the passage is copied for a row and not
  for a query; rows of similar length share batches. Padding is on the right, where a causal model cannot see it.
- The output layer sees the completion's tokens only, and each of them once.
- A probe costs memory in bounds: of the passages that are remembered, and of a batch by what is free.
- The documents are those the store was made of, by their fingerprint: a changed document would be credited for what it
  did not teach.
- Agreement with influence is reckoned from scores alone, of whatever origin, and every figure stands beside its chance.
"""

from dist_attr.probing.agreement import agreement
from dist_attr.probing.comparison import Comparison, comparison, documents_table, scores_table
from dist_attr.probing.figures import Agreement, Estimate
from dist_attr.probing.measuring import CompareOptions, Measurements, finished_in, measure
from dist_attr.probing.passages import Passage, Passages, documents_of
from dist_attr.probing.prober import Probe, Prober
from dist_attr.probing.questions import Question, read_questions
from dist_attr.probing.sources import SourceProbe, by_source, golden_score

__all__ = [
    "Agreement",
    "CompareOptions",
    "Comparison",
    "Estimate",
    "Measurements",
    "Passage",
    "Passages",
    "Probe",
    "Prober",
    "Question",
    "SourceProbe",
    "agreement",
    "by_source",
    "comparison",
    "documents_of",
    "documents_table",
    "finished_in",
    "golden_score",
    "measure",
    "read_questions",
    "scores_table",
]
