//! Vaults, partitions, keys, feeds and views: the only crate that knows fjall
