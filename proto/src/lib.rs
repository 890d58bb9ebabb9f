//! The API of Canopy: types generated from `proto/canopy/**`, the descriptors
//! that the command line, reflection and checks work from, and the checks made
//! on bytes that come from outside.
//!
//! Models know nothing of services. A *stored* message (an option in its
//! `.proto`) stands in requests and answers as [`Wire<T>`]: bytes that nobody
//! re-encodes, so that fields of a newer client survive an older server.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

mod method;
pub mod schema;
mod wire;

pub use method::{Access, Method, Reach, Requirement, Rule, rules};
pub use wire::Wire;

/// The compiled `FileDescriptorSet` of this release, with comments.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/canopy.binpb"));

/// Descriptors of every message, method and option of this release.
pub fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("compiled with this crate"));
    &POOL
}

/// Typed names of all methods, in a module per service.
pub mod methods {
    include!(concat!(env!("OUT_DIR"), "/methods.rs"));
}

macro_rules! package {
    ($area:ident, $($kind:literal),+) => {
        #[doc = concat!("`canopy.", stringify!($area), "`")]
        #[allow(missing_docs, unreachable_pub, clippy::doc_markdown, clippy::all)]
        pub mod $area {
            pub mod v1 {
                $(include!(concat!(env!("OUT_DIR"), "/", $kind, "/canopy.", stringify!($area), ".v1.rs"));)+
            }
        }
    };
}

package!(options, "models");
package!(identity, "models", "services");
package!(org, "models", "services");
package!(chat, "models", "services");
package!(ops, "models", "services");
package!(system, "models", "services");

mod secrets {
    include!(concat!(env!("OUT_DIR"), "/secrets.rs"));
}
