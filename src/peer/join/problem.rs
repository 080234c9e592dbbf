//! How the refusals of a join, and of introductions, reach people: each enum's code and words, in one place.

use crate::{
    identity::TrustError,
    model::{
        code::{Code, Problem},
        introduction::{IntroductionRefusal, RecordRefusal},
        token::{
            TokenError,
            record::{Denial, TermsError},
        },
        trust::BundleRefusal,
    },
    wire::WireError,
};

macro_rules! told_by_their_code {
    ($($refusal:ty),*) => {$(
        impl From<$refusal> for Problem {
            fn from(refusal: $refusal) -> Self {
                Self::new(refusal.code(), refusal.to_string())
            }
        }
    )*};
}

told_by_their_code!(TokenError, TermsError, Denial, BundleRefusal, RecordRefusal, IntroductionRefusal);

/// Somebody's gateway does not prove what it claims in a join.
pub(super) fn not_believed(error: &TrustError) -> Problem {
    let code = match error {
        // In a join nobody was dialled by trust domain: it claimed one and showed another.
        TrustError::OtherDomain { .. } => Code::TRUST_DOMAIN_MISMATCH,
        error => error.code(),
    };
    Problem::new(code, error.to_string())
}

/// A message of a join that means nothing.
pub(super) fn not_understood(error: &WireError) -> Problem {
    Problem::new(Code::JOIN_MESSAGE_INVALID, error.to_string())
}
