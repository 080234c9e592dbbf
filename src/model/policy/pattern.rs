//! The patterns of policy rules: whole segments, literal or `*`; nothing decodes or folds case (A6).

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::model::ids::{ClusterId, Namespace, ServiceLabel, ServiceName, SpiffeId, TrustDomain};

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {text:?} {problem}")]
pub struct PatternError {
    /// The text, cut to 80 characters.
    pub text: String,
    /// The rule it breaks, as the end of a sentence.
    pub problem: String,
}

impl PatternError {
    fn new(text: &str, problem: impl fmt::Display) -> Self {
        Self { text: text.chars().take(80).collect(), problem: problem.to_string() }
    }
}

/// Any, or exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment<T> {
    Any,
    Exactly(T),
}

impl<T: FromStr + PartialEq> Segment<T>
where
    T::Err: fmt::Display,
{
    fn parse(whole: &str, text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        text.parse()
            .map(Self::Exactly)
            .map_err(|error| PatternError::new(whole, format!("is wrong: {error}")))
    }

    fn matches(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(exactly) => exactly == value,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Segment<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exactly(exactly) => exactly.fmt(f),
        }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = PatternError;
            fn from_str(text: &str) -> Result<Self, PatternError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = PatternError;
            fn try_from(text: String) -> Result<Self, PatternError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(pattern: $name) -> Self {
                pattern.to_string()
            }
        }
    };
}

/// `namespace/name`, either part possibly `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    namespace: Segment<Namespace>,
    name: Segment<ServiceLabel>,
}

impl NamePattern {
    /// Parses `ns/name`, `ns/*`, `*/name` or `*/*`.
    ///
    /// # Errors
    /// [`PatternError`] when the slash is missing or a part is neither a label nor `*`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| {
            PatternError::new(text, "is not of the form NAMESPACE/NAME, either part perhaps *")
        })?;
        Ok(Self { namespace: Segment::parse(text, namespace)?, name: Segment::parse(text, name)? })
    }

    /// The one name it selects, if it has no star.
    #[must_use]
    pub fn literal(&self) -> Option<ServiceName> {
        match (&self.namespace, &self.name) {
            (Segment::Exactly(namespace), Segment::Exactly(name)) => {
                Some(ServiceName { namespace: namespace.clone(), name: name.clone() })
            }
            _ => None,
        }
    }

    /// Whether it selects the name.
    #[must_use]
    pub fn matches(&self, name: &ServiceName) -> bool {
        self.namespace.matches(&name.namespace) && self.name.matches(&name.name)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

as_text!(NamePattern);

/// A cluster id, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PeerPattern(Segment<ClusterId>);

impl PeerPattern {
    /// Parses a cluster id or `*`.
    ///
    /// # Errors
    /// [`PatternError`] when it is neither.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Segment::parse(text, text).map(Self)
    }

    /// Whether it selects the peer.
    #[must_use]
    pub fn matches(&self, peer: &ClusterId) -> bool {
        self.0.matches(peer)
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

as_text!(PeerPattern);

/// `spiffe://<trust domain>/<path>`, the domain literal, a path segment possibly `*`, and `/**` at the end
/// for one segment or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallerPattern {
    text: Arc<str>,
    trust_domain: TrustDomain,
}

/// The path of a caller that could not be told apart from others (M9).
const UNATTRIBUTED: &str = "unattributed";

impl CallerPattern {
    /// Parses a SPIFFE ID whose segments may be `*`, the last one also `**`.
    ///
    /// # Errors
    /// [`PatternError`] when it would be no SPIFFE ID with the stars replaced, has no path, or has a star in
    /// its trust domain, inside a segment, or `**` before the end.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or_else(|| PatternError::new(text, "does not begin with spiffe://"))?;
        let (domain, path) = rest
            .split_once('/')
            .ok_or_else(|| PatternError::new(text, "has no path after the trust domain"))?;
        let (front, last) = path.rsplit_once('/').map_or((None, path), |(front, last)| (Some(front), last));
        let stand_in = |segment: &str| if segment == "*" { "any".to_owned() } else { segment.to_owned() };
        let mut segments: Vec<String> =
            front.into_iter().flat_map(|front| front.split('/')).map(stand_in).collect();
        segments.push(if last == "**" { "any".to_owned() } else { stand_in(last) });
        let id = SpiffeId::parse(&format!("spiffe://{domain}/{}", segments.join("/")))
            .map_err(|error| PatternError::new(text, format!("is wrong: {error}")))?;
        Ok(Self { text: text.into(), trust_domain: id.trust_domain().clone() })
    }

    /// Whether it selects the caller.
    #[must_use]
    pub fn matches(&self, caller: &SpiffeId) -> bool {
        fn path<'a>(text: &'a str, domain: &TrustDomain) -> Option<std::str::Split<'a, char>> {
            let rest = text.get("spiffe://".len() + domain.as_str().len()..)?;
            rest.strip_prefix('/').map(|path| path.split('/'))
        }
        if self.trust_domain != *caller.trust_domain() {
            return false;
        }
        let (Some(mut wanted), Some(mut has)) =
            (path(&self.text, &self.trust_domain), path(caller.as_str(), caller.trust_domain()))
        else {
            return false;
        };
        if has.clone().eq([UNATTRIBUTED]) {
            return false;
        }
        loop {
            match (wanted.next(), has.next()) {
                (None, None) => return true,
                (Some("**"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(want), Some(segment)) if want == segment => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for CallerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

as_text!(CallerPattern);
