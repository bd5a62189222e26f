"""Baseline against candidate → pass, fail or inconclusive. Numbers in, verdict out: no files, no processes.

    rounds: baseline_i, candidate_i ──► d_i = log(candidate_i / baseline_i)
                                            │
    sequential.py   at each planned look ───┤
                                            ▼
    signedrank.py   p-values and interval of the ratio, exact for any noise
                                            │
              low > 1 + tolerance │ high < 1 + tolerance │ neither
                            fail  │        pass          │ measure on ─► at the last look: inconclusive
    noise.py        rounds of a model against itself ──► what this machine can decide at all
    rounds.py       the loop: coin, measure, look
    fingerprint.py  whether two runs come from machines that may be compared
    stored.py       a baseline that was measured earlier
    checks.py       findings → the plain values of a report

**Why it is exact.** A fair coin draws the order inside a round. Had the candidate taken exactly (1 + tolerance) times
what the baseline takes in the same slot, swapping the two would turn the sign of dᵢ - log(1 + tolerance) and change
nothing else. So each sign is a fair coin, independent of all others, whatever the machine does: drift, spikes, two
speeds, slow waves. Fisher (1935) for the argument, Wilcoxon (1945) for the statistic, Hodges and Lehmann (1963) for the
estimate.

This file imports nothing.
"""
