//! libFuzzer's program: the target is named by the variable
//! `CANOPY_FUZZ_TARGET`. Built and run by `.ci/fuzz`.
#![no_main]

use std::sync::OnceLock;

use canopy_fuzz::{TARGETS, Target};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("CANOPY_FUZZ_TARGET").unwrap_or_default();
        let target = TARGETS.iter().find(|target| target.name == name);
        let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        TARGET.get_or_init(|| target.unwrap_or_else(|| panic!("CANOPY_FUZZ_TARGET is none of {names:?}")));
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data);
        }
    }
);
