"""Wrappers of the shape Ask around Ask; app stacks them. They do not know each other."""
