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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kubernetes::{
            own::SaidOwn,
            world::{Change, Said},
        },
        model::{
            ids::{ClusterId, GatewayId, Locality, Timestamp, TrustDomain},
            state::{Me, Settings},
            token::{TokenSecret, record::TokenTerms},
            virtual_ip::VirtualIps,
        },
    };

    #[test]
    fn a_token_whose_object_is_gone_is_an_orphan_until_it_is_revoked() {
        let me = Me {
            cluster: ClusterId::parse("east").expect("an id"),
            trust_domain: TrustDomain::parse("east.tombolo").expect("a domain"),
            gateway: GatewayId::parse("g1").expect("an id"),
            locality: Locality::default(),
        };
        let ips = VirtualIps::new("127.77.0.0/18".parse().expect("a network")).expect("large enough");
        let mut state = State::new(me, Settings::default(), ips);
        let now = Timestamp(1_800_000_000_000);
        let record = |at: u8, uid: Option<&str>| {
            let secret = TokenSecret::new([at; 32]);
            let record = TokenRecord::issue(TokenId([at; 10]), &secret, TokenTerms::default(), now);
            TokenRecord { declared_by: uid.map(str::to_owned), ..record.expect("within bounds") }
        };
        for (at, uid) in [(1, None), (2, Some("here")), (3, Some("gone"))] {
            state.apply(Event::Token(record(at, uid)), now);
        }
        let mut world = World::default();
        let spec = serde_json::from_value(json!({})).expect("all of it has defaults");
        let own = Own { uid: "here".to_owned(), generation: 1, spec, status: Value::Null, ours: false };
        let key = Key::new("tombolo-system", "for-west");
        world.take(Said::Own(SaidOwn::Tokens(Change::Put(key, Some(own)))));
        assert_eq!(orphans(&world, &state), [TokenId([3; 10])]);
        state.apply(Event::Token(TokenRecord { revoked: Some(now), ..record(3, Some("gone")) }), now);
        assert!(orphans(&world, &state).is_empty());
    }
}
