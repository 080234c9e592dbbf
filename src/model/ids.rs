//! Names and identities as types that cannot be wrong: parsed once at the edge, trusted afterwards.
//!
//! Cloning any of them is a reference count, so they travel freely through `State`. Nothing here knows
//! what a name stands for.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a string is not the identifier it was taken for. `what` names the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} {problem}")]
pub struct IdError {
    /// The kind that was expected: "cluster id", "SPIFFE ID".
    pub what: &'static str,
    /// The offending text, cut to 80 characters.
    pub value: String,
    /// The rule it breaks, as the end of a sentence.
    pub problem: &'static str,
}

impl IdError {
    fn new(what: &'static str, value: &str, problem: &'static str) -> Self {
        Self { what, value: value.chars().take(80).collect(), problem }
    }
}

/// Longest DNS label in bytes (RFC 1035 section 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;
/// Longest trust domain in bytes (SPIFFE-ID section 2.4).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;
/// Longest SPIFFE ID in bytes (SPIFFE-ID section 2.4).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;

/// Checks an RFC 1123 label: lower-case letters, digits and inner hyphens, 1 to 63 bytes.
fn check_label(what: &'static str, text: &str) -> Result<(), IdError> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > LABEL_BYTES_MAX {
        "is longer than 63 characters"
    } else if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "may hold only lower-case letters, digits and '-'"
    } else if text.starts_with('-') || text.ends_with('-') {
        "may not begin or end with '-'"
    } else {
        return Ok(());
    };
    Err(IdError::new(what, text, problem))
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses and checks.
            ///
            /// # Errors
            /// [`IdError`] names the broken rule.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                $check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The text as it was parsed.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

text_id! {
    /// A cluster of the clusterset: an RFC 1123 label, unique in the set, fixed at first start (KEP-2149).
    ClusterId, "cluster id", check_label
}
text_id! {
    /// A Kubernetes namespace, or what stands for one on a plain host.
    Namespace, "namespace", check_label
}
text_id! {
    /// The name of a service inside its namespace.
    ServiceLabel, "service name", check_label
}
text_id! {
    /// One gateway replica of a cluster; persisted, so it survives restarts.
    GatewayId, "gateway id", check_label
}
text_id! {
    /// A SPIFFE trust domain (SPIFFE-ID section 2.1). Never inferred from a peer's payload.
    TrustDomain, "trust domain", check_trust_domain
}

fn check_trust_domain(what: &'static str, text: &str) -> Result<(), IdError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > TRUST_DOMAIN_BYTES_MAX {
        "is longer than 255 characters"
    } else if !text.bytes().all(allowed) {
        "may hold only lower-case letters, digits, '-', '.' and '_'"
    } else {
        return Ok(());
    };
    Err(IdError::new(what, text, problem))
}

/// A SPIFFE ID: `spiffe://<trust domain>/<path>`, compared byte for byte, never percent-decoded
/// (SPIFFE-ID section 2.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// Parses the URI form.
    ///
    /// # Errors
    /// [`IdError`] for another scheme, a bad trust domain, an empty or dotted segment, a trailing slash, a
    /// character outside the SPIFFE set, or a text over 2048 bytes.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        const WHAT: &str = "SPIFFE ID";
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(IdError::new(WHAT, text, "is longer than 2048 bytes"));
        }
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| IdError::new(WHAT, text, "does not begin with spiffe://"))?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let trust_domain = TrustDomain::parse(domain)?;
        let has_path = rest.len() > domain.len();
        let good = |segment: &str| {
            !matches!(segment, "" | "." | "..")
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        if has_path && !path.split('/').all(good) {
            return Err(IdError::new(WHAT, text, "has an empty, dotted or illegal path segment"));
        }
        Ok(Self { text: text.into(), trust_domain })
    }

    /// The identity of a gateway: `spiffe://<td>/gateway/<gateway id>`.
    #[must_use]
    pub fn gateway(trust_domain: &TrustDomain, gateway: &GatewayId) -> Self {
        Self {
            text: format!("spiffe://{trust_domain}/gateway/{gateway}").into(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// A workload: `spiffe://<td>/ns/<ns>/sa/<sa>`.
    #[must_use]
    pub fn workload(trust_domain: &TrustDomain, namespace: &Namespace, account: &ServiceLabel) -> Self {
        Self {
            text: format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}").into(),
            trust_domain: trust_domain.clone(),
        }
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The domain whose bundle alone may vouch for this identity.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The gateway id, when this is a gateway's identity and nothing else.
    #[must_use]
    pub fn gateway_id(&self) -> Option<GatewayId> {
        let prefix = "spiffe://".len() + self.trust_domain.as_str().len();
        let id = self.text.get(prefix..)?.strip_prefix("/gateway/")?;
        GatewayId::parse(id).ok()
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// The key of an export and of an import: the same name in every cluster is the same service (KEP-1645).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name in that namespace.
    pub name: ServiceLabel,
}

impl ServiceName {
    /// Parses `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// [`IdError`] when either part is not a label or the slash is missing.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| IdError::new("service", text, "is not of the form NAMESPACE/NAME"))?;
        Ok(Self { namespace: Namespace::parse(namespace)?, name: ServiceLabel::parse(name)? })
    }

    /// Parses what people type: `NAME`, `NAME.NAMESPACE`, or the full DNS name below `zone`. A bare name is
    /// looked for in the namespace `default`.
    ///
    /// # Errors
    /// [`IdError`] when a part is not a label or there are more parts than these.
    pub fn parse_spoken(text: &str, zone: &str) -> Result<Self, IdError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let short = text.strip_suffix(zone).and_then(|rest| rest.strip_suffix(".svc.")).unwrap_or(text);
        let (name, namespace) = short.split_once('.').unwrap_or((short, "default"));
        Ok(Self { namespace: Namespace::parse(namespace)?, name: ServiceLabel::parse(name)? })
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Where something runs: `region/zone`, either part possibly empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Locality {
    /// A part of the world with cheap links inside.
    pub region: Arc<str>,
    /// A failure domain inside the region.
    pub zone: Arc<str>,
}

/// Longest region or zone in bytes.
pub const LOCALITY_PART_BYTES_MAX: usize = 63;

impl Locality {
    /// Parses `region/zone` or `region`; the empty text is the unknown locality.
    ///
    /// # Errors
    /// [`IdError`] when a part is over 63 bytes or holds control characters, spaces or a further slash.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (region, zone) = text.split_once('/').unwrap_or((text, ""));
        for part in [region, zone] {
            if part.len() > LOCALITY_PART_BYTES_MAX {
                return Err(IdError::new("locality", text, "has a part longer than 63 characters"));
            }
            if !part.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
                return Err(IdError::new("locality", text, "is not of the form region/zone"));
            }
        }
        Ok(Self { region: region.into(), zone: zone.into() })
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.zone.is_empty() {
            f.write_str(&self.region)
        } else {
            write!(f, "{}/{}", self.region, self.zone)
        }
    }
}

impl TryFrom<String> for Locality {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<Locality> for String {
    fn from(locality: Locality) -> Self {
        locality.to_string()
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Takes exactly the right number of bytes.
            ///
            /// # Errors
            /// [`IdError`] for any other length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                let wrong = |_| IdError::new($what, &format!("of {} bytes", bytes.len()), "has the wrong length");
                bytes.try_into().map(Self).map_err(wrong)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                let bytes = data_encoding::HEXLOWER
                    .decode(text.as_bytes())
                    .map_err(|_| IdError::new($what, &text, "is not lower-case hexadecimal"))?;
                Self::from_slice(&bytes)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                data_encoding::HEXLOWER.encode(&id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

bytes_id! {
    /// What a peer calls an export: an HMAC every replica computes alike, unguessable, never an address (B7).
    ExportId, 16, "export id"
}
bytes_id! {
    /// One incarnation of an exporter's catalog; a new one is replaced by snapshot (rule P5).
    Epoch, 16, "epoch"
}
bytes_id! {
    /// One run of a gateway's process, drawn at its start.
    Instance, 16, "instance"
}
bytes_id! {
    /// One life of an export; drawn anew when a name is exported again (B7).
    Incarnation, 16, "incarnation"
}

/// Version of a row or of a catalog inside one [`Epoch`]; grows by one with each change.
pub type Seq = u64;

/// Wall-clock time in milliseconds since the Unix epoch. Only ever an argument; for what people read and
/// what certificates say, never for timers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `later` after this one, saturating.
    #[must_use]
    pub fn after(self, later: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead (clocks are set back).
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        assert!(ClusterId::parse("east-1").is_ok());
        for bad in ["", "East", "-a", "a-", "a.b", &"x".repeat(64)] {
            assert!(ClusterId::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn spiffe_ids_are_literal() {
        let id = SpiffeId::parse("spiffe://east.abc.tombolo/gateway/g1").expect("valid");
        assert_eq!(id.gateway_id().expect("gateway").as_str(), "g1");
        assert_eq!(id.trust_domain().as_str(), "east.abc.tombolo");
        for bad in [
            "http://a/b",
            "spiffe://A/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/../b",
            "spiffe://a/%61",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn spoken_names_default_their_namespace() {
        let zone = "clusterset.local";
        let full = ServiceName::parse_spoken("web.shop.svc.clusterset.local.", zone).expect("full");
        assert_eq!(full, ServiceName::parse_spoken("web.shop", zone).expect("short"));
        assert_eq!(ServiceName::parse_spoken("web", zone).expect("bare").to_string(), "default/web");
        assert!(ServiceName::parse_spoken("a.b.c", zone).is_err());
    }
}
