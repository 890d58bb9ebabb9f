//! Writes this release's descriptors, without comments, as what later ones
//! are compared with (`tests/compat_descriptor.rs`):
//!
//! ```sh
//! cargo run -p canopy-proto --example release -- proto/released/v0.1.binpb
//! ```
//!
//! A released file is never written again.

use std::error::Error;
use std::fs;
use std::io::Write as _;

use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("name the file to write, such as proto/released/v0.2.binpb")?;
    let set = canopy_proto::pool()
        .get_message_by_name("google.protobuf.FileDescriptorSet")
        .ok_or("the descriptors do not include google/protobuf/descriptor.proto")?;
    // A dynamic message keeps the options that prost's own types would drop.
    let mut set = DynamicMessage::decode(set, canopy_proto::FILE_DESCRIPTOR_SET)?;
    if let Some(Value::List(files)) = set.get_field_by_name_mut("file") {
        for file in files.iter_mut().filter_map(Value::as_message_mut) {
            file.clear_field_by_name("source_code_info");
        }
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    file.write_all(&set.encode_to_vec())?;
    Ok(())
}
