"""A page to play with: three rankings, and how their fusion moves with the weights."""
