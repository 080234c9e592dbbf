//! Refusals: whatever goes wrong is a problem in the body, with the HTTP status that fits it.

use axum::{
    Json,
    extract::Query,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use super::api::{Refusal, schema};
use crate::model::{
    code::{Code, Problem},
    ids::ServiceName,
    limits::ADMIN_BODY_BYTES_MAX,
};

/// A problem and its HTTP status.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self { status: status_of(problem.code), problem }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(Refusal { schema: schema("error"), error: self.problem })).into_response()
    }
}

/// What a program is told that looks at nothing but the status.
fn status_of(code: Code) -> StatusCode {
    match code {
        Code::FLAG_INVALID
        | Code::REQUEST_INVALID
        | Code::CONFIG_VALUE_INVALID
        | Code::TOKEN_LIFE_INVALID
        | Code::TOKEN_NOT_A_TOKEN
        | Code::TOKEN_DAMAGED => StatusCode::BAD_REQUEST,
        Code::NO_SUCH_EXPORT | Code::NO_SUCH_TOKEN | Code::NO_SUCH_PEER | Code::NO_SUCH_NAME => {
            StatusCode::NOT_FOUND
        }
        Code::EXPORT_DECLARED_TWICE | Code::STATE_CHANGED | Code::ALREADY_JOINED | Code::CLUSTER_ID_TAKEN => {
            StatusCode::CONFLICT
        }
        Code::NAME_RESERVED => StatusCode::FORBIDDEN,
        Code::TOKENS_TOO_MANY | Code::JOIN_BUSY | Code::CATALOG_QUOTA | Code::QUEUE_FULL => {
            StatusCode::TOO_MANY_REQUESTS
        }
        Code::STATE_NOT_WRITABLE | Code::PART_FAILED => StatusCode::INTERNAL_SERVER_ERROR,
        Code::NO_DAEMON => StatusCode::SERVICE_UNAVAILABLE,
        Code::COMMAND_TIMED_OUT | Code::JOIN_TIMED_OUT => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn invalid(status: StatusCode, message: String) -> Refused {
    Refused { status, problem: Problem::new(Code::REQUEST_INVALID, message) }
}

/// For paths that there are not.
pub(super) async fn no_such_path(method: Method, uri: Uri) -> Refused {
    invalid(StatusCode::NOT_FOUND, format!("there is no {method} {}", shown(uri.path())))
}

/// For paths that there are, with another method.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Refused {
    invalid(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", shown(uri.path())))
}

/// The body as what it should be: JSON, without a field that nobody knows. A body of nothing says nothing: every
/// field has its default, and one without a default is missed by name.
pub(super) async fn body<T: DeserializeOwned>(request: axum::extract::Request) -> Result<T, Refused> {
    let path = shown(request.uri().path());
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let too_large = || {
        let message = format!("the body of {path} is larger than {ADMIN_BODY_BYTES_MAX} bytes");
        invalid(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    if declared.and_then(|text| text.parse::<usize>().ok()).is_some_and(|size| size > ADMIN_BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let bytes = axum::body::to_bytes(request.into_body(), ADMIN_BODY_BYTES_MAX).await;
    let bytes = bytes.map_err(|_| too_large())?;
    let said: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(said)
        .map_err(|error| invalid(StatusCode::BAD_REQUEST, format!("the body of {path} is wrong: {error}")))
}

/// The query as what it should be, without a field that nobody knows.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Refused> {
    Query::try_from_uri(uri).map(|Query(query)| query).map_err(|error| {
        let message = format!("the query of {} is wrong: {}", shown(uri.path()), error.body_text());
        invalid(StatusCode::BAD_REQUEST, message)
    })
}

/// A service as people write it: `NAME`, `NAME.NAMESPACE`, its DNS name, or `NAMESPACE/NAME`.
pub(super) fn service(text: &str, zone: &str) -> Result<ServiceName, Problem> {
    let parsed = if text.contains('/') {
        ServiceName::parse(text)
    } else {
        ServiceName::parse_spoken(&text.to_ascii_lowercase(), zone)
    };
    parsed.map_err(|error| {
        Problem::new(Code::FLAG_INVALID, error.to_string())
            .with_fix("write NAME or NAME.NAMESPACE, as in web.shop")
    })
}

/// A foreign text, cut to a length that a message can hold.
fn shown(text: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 80;
    text.chars().take(SHOWN_CHARACTERS_MAX).collect()
}
