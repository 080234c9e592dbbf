//! Names as the zone needs them: absolute, lower case, never longer than DNS allows.

use std::{fmt, sync::Arc};

use crate::model::{
    catalog::{Protocol, Row},
    code::Code,
    ids::{ClusterId, LABEL_BYTES_MAX, ServiceName},
};

/// Longest name in bytes of text, without the final dot (RFC 1035 section 2.3.4: 255 on the wire).
pub const NAME_BYTES_MAX: usize = 253;

/// Longest zone in bytes: beside it, every `<svc>.<ns>.svc.` fits into a name.
const ZONE_BYTES_MAX: usize = NAME_BYTES_MAX - 2 * (LABEL_BYTES_MAX + 1) - "svc.".len();

/// An absolute DNS name in lower case, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// The text, without the final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no zone, or a row's names do not fit into one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a sequence of labels.
    #[error("{text:?} is not a zone: labels of letters, digits and '-', joined by dots")]
    NotAZone {
        /// The text that was given, cut to 80 characters.
        text: String,
    },
    /// A name under the zone is longer than DNS carries (rule 27).
    #[error("{service} cannot be exported: {name} has {length} characters, DNS allows 253")]
    TooLong {
        /// The export.
        service: ServiceName,
        /// Its longest name.
        name: String,
        /// How long that is.
        length: usize,
    },
}

impl NameError {
    /// Its row of the table of codes.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::NotAZone { .. } => Code::CONFIG_VALUE_INVALID,
            Self::TooLong { .. } => Code::NAME_TOO_LONG,
        }
    }
}

/// The zone this gateway answers for, `clusterset.local` by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneName(DnsName);

impl ZoneName {
    /// Parses; a final dot and upper case are accepted.
    ///
    /// # Errors
    /// [`NameError::NotAZone`] for anything that is not labels joined by dots, or too long to hold a service.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if lower.len() > ZONE_BYTES_MAX || !lower.split('.').all(label) {
            return Err(NameError::NotAZone { text: text.chars().take(80).collect() });
        }
        Ok(Self(DnsName(lower.into())))
    }

    /// The text, without the final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The zone's own name.
    #[must_use]
    pub fn apex(&self) -> DnsName {
        self.0.clone()
    }

    /// The labels left of the zone, most specific first; `None` for a name outside of it. Case is ignored.
    #[must_use]
    pub fn inside<'a>(&self, labels: &'a [&'a [u8]]) -> Option<&'a [&'a [u8]]> {
        let mut rest = labels;
        for own in self.as_str().rsplit('.') {
            let (last, before) = rest.split_last()?;
            if !last.eq_ignore_ascii_case(own.as_bytes()) {
                return None;
            }
            rest = before;
        }
        Some(rest)
    }

    /// `prefix.zone`, for prefixes known to be short.
    pub(super) fn child(&self, prefix: &str) -> DnsName {
        DnsName(format!("{prefix}.{}", self.as_str()).into())
    }

    /// The name of a service.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> DnsName {
        DnsName(format!("{}.{}.svc.{}", name.name, name.namespace, self.as_str()).into())
    }

    /// The name of one endpoint of a headless service (rule 23); `None` when DNS cannot carry it.
    #[must_use]
    pub fn endpoint(&self, service: &ServiceName, cluster: &ClusterId, hostname: &str) -> Option<DnsName> {
        let text =
            format!("{hostname}.{cluster}.{}.{}.svc.{}", service.name, service.namespace, self.as_str());
        (text.len() <= NAME_BYTES_MAX).then(|| DnsName(text.into()))
    }

    /// Checks that DNS can carry every name a row makes (rule 27); asked before a row is exported.
    ///
    /// # Errors
    /// [`NameError::TooLong`] with the longest of them.
    pub fn check(&self, cluster: &ClusterId, row: &Row) -> Result<(), NameError> {
        let service = self.service(&row.name);
        let endpoints = row.endpoints.iter().filter(|_| row.headless);
        let names = endpoints
            .map(|endpoint| format!("{}.{cluster}.{service}", endpoint.hostname))
            .chain(row.ports.iter().map(|port| format!("_{}.{}.{service}", port.name, label(port.protocol))));
        let longest = names.max_by_key(String::len).unwrap_or_else(|| service.to_string());
        if longest.len() > NAME_BYTES_MAX {
            let length = longest.len();
            return Err(NameError::TooLong { service: row.name.clone(), name: longest, length });
        }
        Ok(())
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a protocol is written in an SRV record's name.
pub(super) fn label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
    }
}
