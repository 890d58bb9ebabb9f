//! Compiles the `.proto` sources without `protoc`. Models and services are
//! generated apart, so that in requests and answers a stored message stands
//! as `Wire<T>`: its bytes as they travel, with the fields that this release
//! does not know.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost_reflect::{DescriptorPool, MessageDescriptor, Value};
use prost_types::{FileDescriptorProto, FileDescriptorSet};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=canopy");
    println!("cargo::rerun-if-changed=third_party");

    let mut compiler = protox::Compiler::new([".", "third_party"])?;
    compiler.include_source_info(true).include_imports(true);
    for file in proto_files(Path::new("canopy"))? {
        compiler.open_file(&file)?;
    }
    fs::write(out.join("canopy.binpb"), compiler.encode_file_descriptor_set())?;
    let pool = compiler.descriptor_pool();
    let all = compiler.file_descriptor_set();

    let ours = |file: &FileDescriptorProto| file.name().starts_with("canopy/");
    let is_google = |file: &FileDescriptorProto| file.name().starts_with("google/");
    let is_service = |file: &FileDescriptorProto| file.name().ends_with("_service.proto");
    generate_models(&out, &pool, all.file.iter().filter(|f| ours(f) && !is_service(f)))?;
    generate_services(&out, &pool, all.file.iter().filter(|f| ours(f) || is_google(f)))?;
    fs::write(out.join("methods.rs"), method_constants(&pool)?)?;
    fs::write(out.join("secrets.rs"), secret_debug_impls(&pool)?)?;
    Ok(())
}

fn proto_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn generate_models<'a>(
    out: &Path,
    pool: &DescriptorPool,
    files: impl Iterator<Item = &'a FileDescriptorProto>,
) -> Result<()> {
    let dir = out.join("models");
    fs::create_dir_all(&dir)?;
    let mut config = prost_build::Config::new();
    config.out_dir(&dir).enable_type_names().bytes(["."]);
    config.skip_debug(secret_messages(pool).map(|m| format!(".{}", m.full_name())));
    config.compile_fds(FileDescriptorSet { file: files.cloned().collect() })?;
    Ok(())
}

/// Takes all files, but the models are named as extern, and so made once.
fn generate_services<'a>(
    out: &Path,
    pool: &DescriptorPool,
    files: impl Iterator<Item = &'a FileDescriptorProto>,
) -> Result<()> {
    let dir = out.join("services");
    fs::create_dir_all(&dir)?;
    let mut config = prost_build::Config::new();
    config.out_dir(&dir).enable_type_names().bytes(["."]);
    config.skip_debug(secret_messages(pool).map(|m| format!(".{}", m.full_name())));
    for message in pool.all_messages().filter(|m| is_ours(m) && in_models(m)) {
        config.extern_path(format!(".{}", message.full_name()), rust_type(&message)?);
    }
    for item in pool.all_enums() {
        let file = item.parent_file();
        if file.package_name().starts_with("canopy.") && !file.name().ends_with("_service.proto") {
            let path = rust_path(item.package_name(), item.name());
            config.extern_path(format!(".{}", item.full_name()), path);
        }
    }
    tonic_prost_build::configure()
        .build_server(false)
        .emit_rerun_if_changed(false)
        .out_dir(&dir)
        .compile_fds_with_config(FileDescriptorSet { file: files.cloned().collect() }, config)?;
    Ok(())
}

/// `pub const SEND_MESSAGE: Method<SendMessageRequest, Wire<Message>>`, in a
/// module per service.
fn method_constants(pool: &DescriptorPool) -> Result<String> {
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for service in pool.services().filter(|s| s.package_name().starts_with("canopy.")) {
        let body = modules.entry(snake(service.name())).or_default();
        for method in service.methods() {
            writeln!(
                body,
                "    /// `{}/{}`\n    pub const {}: crate::Method<{}, {}> = crate::Method::new(\"{}/{}\");",
                service.full_name(),
                method.name(),
                snake(method.name()).to_uppercase(),
                rust_type(&method.input())?,
                rust_type(&method.output())?,
                service.full_name(),
                method.name(),
            )?;
        }
    }
    let mut text = String::new();
    for (name, body) in modules {
        writeln!(text, "#[rustfmt::skip]\npub mod {name} {{\n{body}}}")?;
    }
    Ok(text)
}

/// `Debug` for messages that hold secrets prints their type alone.
fn secret_debug_impls(pool: &DescriptorPool) -> Result<String> {
    let mut text = String::new();
    for message in secret_messages(pool) {
        let path = rust_path(message.package_name(), message.name());
        writeln!(
            text,
            "impl ::core::fmt::Debug for {path} {{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{
        f.debug_struct(\"{}\").finish_non_exhaustive()
    }}
}}",
            message.name()
        )?;
    }
    Ok(text)
}

fn secret_messages(pool: &DescriptorPool) -> impl Iterator<Item = MessageDescriptor> {
    pool.all_messages().filter(|m| is_ours(m) && m.fields().any(|f| flag(&f.options(), "canopy.options.v1.secret")))
}

fn flag(options: &prost_reflect::DynamicMessage, extension: &str) -> bool {
    options.extensions().any(|(e, value)| e.full_name() == extension && matches!(value, Value::Bool(true)))
}

fn is_ours(message: &MessageDescriptor) -> bool {
    message.package_name().starts_with("canopy.")
}

fn in_models(message: &MessageDescriptor) -> bool {
    !message.parent_file().name().ends_with("_service.proto")
}

fn rust_type(message: &MessageDescriptor) -> Result<String> {
    if !is_ours(message) {
        return Err(format!("{} must not be a method's input or output", message.full_name()).into());
    }
    let path = rust_path(message.package_name(), message.name());
    Ok(if flag(&message.options(), "canopy.options.v1.stored") { format!("crate::Wire<{path}>") } else { path })
}

/// `canopy.chat.v1` and `Message` make `crate::chat::v1::Message`.
fn rust_path(package: &str, name: &str) -> String {
    format!("crate::{}::{name}", package.trim_start_matches("canopy.").replace('.', "::"))
}

fn snake(name: &str) -> String {
    let mut text = String::new();
    for (i, c) in name.chars().enumerate() {
        if c.is_uppercase() && i > 0 {
            text.push('_');
        }
        text.extend(c.to_lowercase());
    }
    text
}
