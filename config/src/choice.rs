//! Keys whose value is one of a few words.

use crate::setting::{Raw, Setting, quoted};
use crate::table::Key;

/// One permitted word of a key that is a choice.
#[derive(Debug)]
pub struct Choice {
    /// The word as in the file.
    pub name: &'static str,
    /// The description, one element per source line, each with its leading space.
    pub doc_lines: &'static [&'static str],
}

macro_rules! choices {
    ($(
        $(#[doc = $doc:literal])+
        pub enum $Enum:ident {
            $( $(#[doc = $variant_doc:literal])+ $Variant:ident = $name:literal, )+
        }
    )+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
        pub enum $Enum {
            $( $(#[doc = $variant_doc])+ #[serde(rename = $name)] $Variant, )+
        }

        impl $Enum {
            /// The word as in the file.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$Variant => $name, )+ }
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Setting for $Enum {
            const TYPE: &'static str = "choice";
            const CHOICES: &'static [Choice] = &[
                $( Choice { name: $name, doc_lines: &[$($variant_doc),+] }, )+
            ];

            fn read(raw: &Raw, _key: &Key) -> Option<Self> {
                match raw.text()? {
                    $( $name => Some(Self::$Variant), )+
                    _ => None,
                }
            }

            fn literal(&self) -> String {
                quoted(self.as_str())
            }

            fn allowed(_key: &Key) -> String {
                let names: Vec<_> = Self::CHOICES.iter().map(|choice| quoted(choice.name)).collect();
                match names.as_slice() {
                    [only] => only.clone(),
                    _ => format!("one of {}", names.join(", ")),
                }
            }
        }
    )+};
}

choices! {
    /// Where the server certificate comes from.
    pub enum TlsMode {
        /// the node's own certificate authority, made in `data_dir` at first start
        LocalCa = "local-ca",
        /// `cert_file` and `key_file`, read again when they change
        Files = "files",
        /// no TLS; only on a loopback address
        Off = "off",
    }

    /// Who may read the metrics page.
    pub enum MetricsAccess {
        /// peers on a loopback address
        Loopback = "loopback",
        /// callers with a token that permits it
        Authorised = "authorised",
        /// nobody
        Off = "off",
    }

    /// Where the root key comes from.
    pub enum RootKeySource {
        /// the file `root_key_file`
        KeyFile = "key-file",
        /// derived by Argon2id from a passphrase: CANOPY_ROOT_PASSPHRASE, or asked for on a terminal
        Passphrase = "passphrase",
        /// the variable CANOPY_ROOT_KEY
        Environment = "environment",
    }

    /// Who may make an account.
    pub enum SignUp {
        /// holders of an invitation token
        Token = "token",
        /// anybody
        Open = "open",
        /// nobody; an admin makes accounts
        Closed = "closed",
    }

    /// What a person's log-in has to show.
    pub enum LogInStrength {
        /// the password; with a code, or by a passkey, where the account has them
        Password = "password",
        /// the password and a code, or a passkey
        TwoFactors = "two-factors",
        /// a passkey, which nobody can be tricked out of
        Passkey = "passkey",
    }

    /// From where a session administers the installation.
    pub enum AdminPlace {
        /// from anywhere
        Any = "any",
        /// from the network address, and by the program, that it was opened from
        LogIn = "log-in",
    }

    /// What becomes of a mail.
    pub enum MailMode {
        /// a file in `dir`, for development
        Files = "files",
        /// it goes to the mail server `smtp_host`
        Smtp = "smtp",
        /// nothing: no mails are written, and what needs them is refused
        None = "none",
    }

    /// How the way to the mail server is protected.
    pub enum SmtpTls {
        /// TLS from the first byte
        Tls = "tls",
        /// STARTTLS, and no mail without it
        StartTls = "starttls",
        /// not at all; only to a loopback address
        Off = "off",
    }

    /// Whether accounts are verified before they are of use.
    pub enum Verification {
        /// required where mails go to a mail server, off elsewhere
        Auto = "auto",
        /// nobody logs in before the address is confirmed
        Required = "required",
        /// accounts are of use at once; who registers a taken address is told so
        Off = "off",
    }

    /// What carries membership, placement and the replicated log.
    pub enum ClusterMode {
        /// one node, nothing outside it
        Embedded = "embedded",
    }

    /// How a log line is written.
    pub enum LogFormat {
        /// for people
        Text = "text",
        /// one JSON object a line
        Json = "json",
    }
}
