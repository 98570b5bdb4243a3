"""A scan and its labels for the eye: a page to look through them, and a picture to glance at.

The page holds NiiVue, which ``scripts/niivue/build`` makes from npm: ``niivue.js.gz`` with its digest in
``niivue.json`` and all licences in ``niivue-licences.txt``.
"""
