"""What other frameworks write, read as data and turned into a recipe.

One module a framework. No code of what is read runs here.
"""
