//! Models as tapes: the Transformer with every convolution variant.
