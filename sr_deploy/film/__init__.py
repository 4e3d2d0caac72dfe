"""A video as a whole: its plan, its segments, computed anywhere, its journal, and the file that becomes of them."""
