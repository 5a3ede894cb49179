"""Published systems that are built here, and their claims: figures anybody can measure again.

registry    what a system says of itself, and how it is found and reproduced
systems     one module for each system
tasks       texts with known answers, and what a model makes of them
sentences   embeddings of sentences, in the clear and private
puma_*      what the claims of PUMA measure
"""
