//! JoinTokens: each gets a token in a Secret of its name, once; one that is deleted revokes its token.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::{Value, json};

use super::{API_VERSION, Condition, Governing, telling};
use crate::{
    kubernetes::{MANAGED_BY, MANAGER, own::Own, resources::JoinTokenSpec, seen::Key, world::World},
    model::{
        code::Problem,
        state::{Event, State},
        token::{TokenId, record::TokenRecord},
    },
};

/// On the Secret: the id of the token in it.
const TOKEN_ID: &str = "tombolo.dev/token-id";

const NAMES: (&str, &str) = ("JoinToken", "jointokens");

impl Governing {
    pub(super) async fn tokens(&self, world: &World, state: &State) {
        for (key, token) in world.own.tokens.iter() {
            self.token(key, token, state).await;
        }
        for id in orphans(world, state) {
            self.revoke(id).await;
        }
    }

    async fn token(&self, key: &Key, token: &Own<JoinTokenSpec>, state: &State) {
        let id = match id_of(&token.status) {
            Some(id) => id,
            None => match self.issued(key, token).await {
                Ok(Some(id)) => id,
                Ok(None) => return,
                Err(wrong) => {
                    let refused = Condition::new("Ready", false, "Refused", wrong);
                    let status =
                        json!({ "conditions": self.dated(&[refused], token.generation, &token.status) });
                    self.put_status(NAMES, key, &token.status, status).await;
                    return;
                }
            },
        };
        let newest = self.store.state();
        let Some(record) = newest.tokens.get(&id).or_else(|| state.tokens.get(&id)) else {
            // Its record is kept a while after its end, and then it is nobody's.
            let over = Condition::new("Ready", false, "Expired", "its life is over");
            let conditions = self.dated(&[over], token.generation, &token.status);
            let status = json!({ "id": id.to_string(), "usesLeft": 0, "conditions": conditions });
            self.put_status(NAMES, key, &token.status, status).await;
            return;
        };
        let (mut status, condition) = telling::token(record, &key.name, self.clock.wall());
        let reason = condition.reason.clone();
        status["conditions"] = self.dated(&[condition], token.generation, &token.status);
        let before = token.status["redeemedBy"].as_array().map_or(0, Vec::len);
        if self.put_status(NAMES, key, &token.status, status).await {
            if reason == "Issued" && id_of(&token.status).is_none() {
                let note = format!("token {id} is in the Secret {}", key.name);
                self.tell("JoinToken", key, &token.uid, (true, "TokenIssued", &note)).await;
            }
            for redemption in record.redeemed.iter().skip(before) {
                let note = format!("{} joined with token {id}", redemption.cluster);
                self.tell("JoinToken", key, &token.uid, (true, "TokenUsed", &note)).await;
            }
        }
    }

    /// The token of this JoinToken: the one in its Secret, or a new one. None when the API server does not
    /// take it now; the error is for people.
    async fn issued(&self, key: &Key, token: &Own<JoinTokenSpec>) -> Result<Option<TokenId>, String> {
        if key.namespace != self.namespace {
            return Err(format!("tokens are made in the namespace {} only", self.namespace));
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(there) = self.asked("Secret", &key.name, secrets.get_opt(&key.name)).await else {
            return Ok(None);
        };
        if let Some(secret) = there {
            let ours = secret.owner_references().iter().any(|owner| owner.uid == token.uid);
            let id = secret.annotations().get(TOKEN_ID).and_then(|id| TokenId::parse(id).ok());
            return match id.filter(|_| ours) {
                Some(id) => Ok(Some(id)),
                None => Err(format!("there is a Secret {} that is not this token's", key.name)),
            };
        }
        let spoken = |problem: Problem| format!("{} {}: {}", problem.code, problem.message, problem.fix);
        let (id, text) = (self.hands.issue)(token.spec.clone()).await.map_err(spoken)?;
        // Before anybody can use it: should the object go while no gateway runs, the token goes with it.
        let uid = token.uid.clone();
        self.change(id, move |record| record.declared_by = Some(uid)).await;
        let owner = OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: "JoinToken".to_owned(),
            name: key.name.clone(),
            uid: token.uid.clone(),
            ..OwnerReference::default()
        };
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGER.to_owned())])),
                annotations: Some(BTreeMap::from([(TOKEN_ID.to_owned(), id.to_string())])),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([("token".to_owned(), ByteString(text.into_bytes()))])),
            type_: Some("tombolo.dev/join-token".to_owned()),
            ..Secret::default()
        };
        let made = self.asked("Secret", &key.name, secrets.create(&PostParams::default(), &secret)).await;
        if made.is_none() {
            // Nobody has seen it, and nobody can use it.
            self.revoke(id).await;
        }
        Ok(made.map(|_| id))
    }

    async fn revoke(&self, id: TokenId) {
        let now = self.clock.wall();
        self.change(id, move |record| record.revoked = record.revoked.or(Some(now))).await;
    }

    async fn change(&self, id: TokenId, change: impl FnOnce(&mut TokenRecord) + Send + 'static) {
        let decide = move |state: &State, _| {
            let Some(record) = state.tokens.get(&id) else { return Ok((Vec::new(), ())) };
            let mut changed = TokenRecord::clone(record);
            change(&mut changed);
            let events = if changed == **record { Vec::new() } else { vec![Event::Token(changed)] };
            Ok((events, ()))
        };
        if let Err(problem) = self.store.transact(decide).await {
            tracing::error!(code = %problem.code, error = %problem.message, "a token could not be changed");
        }
    }
}

/// Tokens that can be redeemed although the JoinToken that asked for them is gone, be it while no gateway ran.
fn orphans(world: &World, state: &State) -> Vec<TokenId> {
    let uids: BTreeSet<&str> = world.own.tokens.iter().map(|(_, token)| token.uid.as_str()).collect();
    let orphan = |record: &TokenRecord| {
        let gone = record.declared_by.as_deref().is_some_and(|uid| !uids.contains(uid));
        gone && record.revoked.is_none() && record.uses_left > 0
    };
    state.tokens.values().filter(|record| orphan(record)).map(|record| record.id).collect()
}

fn id_of(status: &Value) -> Option<TokenId> {
    TokenId::parse(status["id"].as_str()?).ok()
}
