//! Memory of a thread for what is sealed: it stays in the processor's cache.

use std::cell::Cell;

/// Kept no longer than this between two uses, in bytes.
const KEPT_BYTES_MAX: usize = 256 << 10;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends empty memory. Whoever asks again meanwhile gets other memory.
pub(crate) fn with<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut memory = SCRATCH.take();
    let done = work(&mut memory);
    if memory.capacity() <= KEPT_BYTES_MAX {
        memory.clear();
        SCRATCH.set(memory);
    }
    done
}
