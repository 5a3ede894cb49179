"""Private use of whole models by their data owners.

generate    text by a decoder, token by token
embed       sentences by an encoder
pooled      the encoder with its pooling, and its plans: the model owner's side
"""
