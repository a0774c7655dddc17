"""Fuzzing: every parser gets bytes that nobody meant it to get.

One Target a parser (targets.py lists them). test_targets.py gives each a short, fixed share in CI;
`python -m tests.fuzz.run TARGET --seconds N` goes on for as long as one likes, led by the edges of
the code that inputs reach (atheris), and keeps the inputs worth having in corpus/.
"""
