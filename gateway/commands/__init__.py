"""What `flask --app gateway` can do besides what Flask can: one file for commands that belong together.

They exit with 0 where all is well, with 1 where something is not (faults, a refusal, differences, failed cases), with 2
where they were called wrongly. `--json` is for programs: the same facts, as one document on standard output.
"""
