//! Where an actor lives: placement and owner epochs
