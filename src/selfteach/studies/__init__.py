"""What papers claim, put to the test in a small world; and what a laptop runs."""
