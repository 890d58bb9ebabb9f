//! What a text must look like beyond being text.

use std::net::IpAddr;

/// A condition on a text, or on each item of a list of texts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextRule {
    /// What is accepted, for people.
    pub(crate) allowed: &'static str,
    pub(crate) accepts: fn(&str) -> bool,
}

/// A DNS name (RFC 1123 section 2.1) or an IP address.
pub(crate) const HOSTNAME: TextRule = TextRule {
    allowed: "host names (letters, digits, `-` and `.`) or IP addresses",
    accepts: |text| text.parse::<IpAddr>().is_ok() || is_dns_name(text),
};

/// The part of `tracing_subscriber::EnvFilter`'s syntax that cannot be misread. The filter itself
/// takes a misspelt level (`inof`) for a target and then logs nothing else.
pub(crate) const LOG_FILTER: TextRule = TextRule {
    allowed: "a level (error, warn, info, debug, trace, off), or `target=level`, \
              several separated by commas",
    accepts: |text| text.split(',').all(|directive| is_log_directive(directive.trim())),
};

/// A mailbox as mails name it: `Name <local@domain>`, or the address alone.
pub(crate) const MAILBOX: TextRule = TextRule {
    allowed: "an e-mail address, alone or as `Name <address>`",
    accepts: |text| {
        let address = text.strip_suffix('>').map_or(Some(text), |rest| Some(rest.rsplit_once('<')?.1));
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic());
        let parts = address.and_then(|address| address.split_once('@'));
        !text.contains(char::is_control) && parts.is_some_and(|(local, domain)| plain(local) && is_dns_name(domain))
    },
};

/// The beginning of links, or nothing.
pub(crate) const URL: TextRule = TextRule {
    allowed: "a URL that starts with `https://` or `http://`, or nothing",
    accepts: |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"#?".contains(&byte));
        text.is_empty() || host.is_some_and(|rest| !rest.is_empty() && plain(rest))
    },
};

/// A DNS name, or nothing: browsers make no passkeys for IP addresses.
pub(crate) const DOMAIN: TextRule =
    TextRule { allowed: "a domain name, or nothing", accepts: |text| text.is_empty() || is_domain(text) };

/// Where a page comes from: `https://`, a DNS name, and a port where it is not 443; or nothing.
/// Browsers take `http://` for `localhost` alone.
pub(crate) const ORIGIN: TextRule = TextRule {
    allowed: "pages (`https://`, or `http://localhost`, with a domain name and perhaps a port), or nothing",
    accepts: |text| {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        let is_safe = scheme == "https" || (scheme == "http" && host == "localhost");
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        text.is_empty() || (is_safe && is_domain(host) && port.is_none_or(is_port))
    },
};

fn is_domain(text: &str) -> bool {
    is_dns_name(text) && text.parse::<IpAddr>().is_err()
}

/// RFC 1035 section 2.3.4.
const DNS_NAME_BYTES_MAX: usize = 253;
/// RFC 1035 section 2.3.4.
const DNS_LABEL_BYTES_MAX: usize = 63;

fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= DNS_LABEL_BYTES_MAX
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= DNS_NAME_BYTES_MAX && text.split('.').all(is_label)
}

fn is_log_directive(directive: &str) -> bool {
    let (target, level) = match directive.split_once('=') {
        Some((target, level)) => (Some(target), level),
        None => (None, directive),
    };
    let is_target = |target: &str| {
        !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte))
    };
    let levels = ["error", "warn", "info", "debug", "trace", "off"];
    target.is_none_or(is_target) && levels.iter().any(|known| level.eq_ignore_ascii_case(known))
}
