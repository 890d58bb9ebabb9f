//! What people write: the configuration, and requests as JSON.

use canopy::cli::request::from_json;
use canopy_config::LoadRequest;
use prost_reflect::{DynamicMessage, SerializeOptions};

/// A configuration that is accepted is accepted again as it is printed, and is the same.
pub(crate) fn config(data: &[u8]) {
    let directory = crate::files::scratch();
    let file = directory.path().join("canopy.toml");
    let load = |text: &[u8]| {
        std::fs::write(&file, text).unwrap();
        canopy_config::load(LoadRequest { file: Some(file.clone()), env: Vec::new(), overrides: Vec::new() })
    };
    match load(data) {
        Ok(loaded) => {
            let printed = loaded.config.render();
            let again = load(printed.as_bytes()).expect("a printed configuration is accepted");
            assert_eq!(again.config.render(), printed, "a configuration changed as it was printed");
        }
        Err(error) => assert!(!error.problems.is_empty() && !error.to_string().is_empty(), "refused without a reason"),
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok((key, value)) = canopy_config::split_override(text)
    {
        assert!(!key.is_empty() && text.ends_with(&value));
        let _ = canopy_config::load(LoadRequest { file: None, env: Vec::new(), overrides: vec![(key, value)] });
    }
}

/// Requests as JSON: a message is chosen by the first byte; what is read is the same when it is printed
/// and read again.
pub(crate) fn json(data: &[u8]) {
    let Some((which, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let messages: Vec<_> =
        canopy_proto::pool().all_messages().filter(|message| message.full_name().starts_with("canopy.")).collect();
    let Some(descriptor) = messages.get(usize::from(*which) % messages.len().max(1)) else { return };
    let Ok(message) = from_json(descriptor.clone(), text) else { return };
    // Compared as JSON: what was given as its default is not printed, and reads the same.
    let Some(printed) = print(&message) else { return };
    let again = from_json(descriptor.clone(), &printed.to_string()).expect("printed JSON is read");
    assert_eq!(print(&again).as_ref(), Some(&printed), "a message changed as it was printed");
}

/// As the command line prints it; a time beyond the calendar's years has no JSON form.
fn print(message: &DynamicMessage) -> Option<serde_json::Value> {
    message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).ok()
}
