//! The shells: activation, decide, commit, effects, wake-ups, passivation
