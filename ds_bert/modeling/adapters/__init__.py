"""What meta-learning adds to an encoder: adapters, learned step sizes, and a head that makes the weights of labels."""
