"""The simulator: whole clusters of real validators as a function of a seed.

`python -m tests.sim run --seeds 0-199 --validators 4 --profile all --json`
`python -m tests.sim replay --seed 17 --validators 4 --profile all`
`python -m tests.sim wan --validators 4,7,10,31 --json`
"""
