"""Video files: containers, streams, decoders, encoders, and the frames between them."""
