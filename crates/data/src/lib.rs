//! Associative-recall tasks and token data; every generator takes a seed.
