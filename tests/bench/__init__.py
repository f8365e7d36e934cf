"""`make bench`: what cloner does beside what else there is to do it with, and beside the bare system calls.

Nothing here passes or fails, and no figure of another machine is in it: everything that is compared is measured in the
same run, in turn. A question is a function that yields results; __main__.py names them all.
"""
