//! Models of the ring and its doorbell.
