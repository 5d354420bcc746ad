//! AdamW, schedule, evaluation, checkpoint and resume: the training loop.
