"""Measures a plan: a child process for each measurement, all of them taking turns.

The runner starts children and asks them for values. A spec tells a child what to do.
"""
