//! The installation itself: unique names, wake-ups, sign-up
