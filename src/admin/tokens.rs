//! `tombolo token list` and `revoke`; a token is issued by those who know the addresses it carries.

use super::{
    Parts,
    api::{Done, TokenStatus, Tokens, schema},
};
use crate::model::{
    code::{Code, Problem},
    ids::Timestamp,
    state::{Event, State},
    token::{TokenId, record::TokenRecord},
};

/// `GET /v1/tokens`.
pub(super) fn list(state: &State, now: Timestamp) -> Tokens {
    let tokens = state.tokens.values().map(|record| status(record, now)).collect();
    Tokens { schema: schema("tokens"), tokens }
}

fn status(record: &TokenRecord, now: Timestamp) -> TokenStatus {
    let word = if record.revoked.is_some() {
        "revoked"
    } else if record.uses_left == 0 {
        "redeemed"
    } else if now >= record.expires {
        "expired"
    } else {
        "unused"
    };
    TokenStatus {
        id: record.id.to_string(),
        state: word.to_owned(),
        expires_unix_ms: record.expires,
        uses_left: record.uses_left,
        redeemed_by: record.redeemed.iter().map(|redemption| redemption.cluster.clone()).collect(),
    }
}

/// `DELETE /v1/tokens/ID`. Whoever has joined with it stays; nobody else can.
pub(super) async fn revoke(parts: &Parts, typed: &str) -> Result<Done, Problem> {
    let none = |id: &str| Problem::new(Code::NO_SUCH_TOKEN, format!("there is no token {id}"));
    let id = TokenId::parse(typed).map_err(|error| none(&error.value))?;
    let decide = move |state: &State, now| {
        let record = state.tokens.get(&id).ok_or_else(|| none(&id.to_string()))?;
        if record.revoked.is_some() {
            return Ok((Vec::new(), record.redeemed.len()));
        }
        let revoked = TokenRecord { revoked: Some(now), ..TokenRecord::clone(record) };
        Ok((vec![Event::Token(revoked)], record.redeemed.len()))
    };
    let joined = parts.store.transact(decide).await?;
    let text = match joined {
        0 => format!("token {id} is revoked; nobody has joined with it"),
        count => format!("token {id} is revoked; {count} joined with it before and stay joined"),
    };
    Ok(Done::new(text))
}
