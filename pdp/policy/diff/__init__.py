"""What a new bundle means that the old one did not: `exequatur bundle diff`.

Rules: what is said is about meaning, never about text; a change is called tighter only where that follows from what
changed, and whatever nobody can tell is `changed`, which wants somebody's word as a widening does.
"""
