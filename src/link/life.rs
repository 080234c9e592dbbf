//! What runs on a lane for as long as it lives: its incoming streams, its probes, its end.
//!
//! Probing is the shell around `model::liveness`: datagrams in and out, timers, and the verdict published for
//! whoever opens streams. It runs on the lane's own shard, so it measures the path that data takes.

use std::sync::Arc;

use bytes::Bytes;
use federation_proto::v1;
use prost::Message;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Caller, Links,
    codes::{Close, Reset},
    lane::{Lane, LaneFigures, Standing},
    opens::OpenPace,
    room::Room,
    stream::{CallStream, Kind, Reader, Writer},
};
use crate::{
    model::{
        limits,
        liveness::{Actions, Change, LinkState, Liveness, Probe, RefusedAt},
    },
    net::canonical,
};

/// Runs until the connection ends.
pub(super) async fn run(links: Links, lane: Arc<Lane>) {
    let shard = lane.shard();
    links.0.shards.spawn_transient(shard, "lane streams", accept(links.clone(), lane.clone()));
    links.0.shards.spawn_transient(shard, "lane probes", probe(links.clone(), lane.clone()));
    let settled = timeout(links.0.limits.handshake_timeout, lane.wait_up());
    tokio::select! {
        biased;
        _ = lane.closed() => {}
        settled = settled => match settled {
            // Whoever dialled, the peer was reached: why a dial failed before is of no use any more.
            Ok(()) => links.forget_dial_failure(&lane.key().cluster),
            Err(_) => lane.close(Close::Protocol),
        },
    }
    tokio::select! {
        biased;
        _ = lane.closed() => {}
        () = spent(&lane) => lane.close(Close::Superseded),
    }
    let end = lane.closed().await;
    links.registry().remove(&lane, links.0.clock.now());
    links.note_end(&lane, &end);
    let (peer, gateway) = (&lane.key().cluster, &lane.key().gateway);
    if lane.was_up() {
        tracing::info!(%peer, %gateway, reason = %end, "lane ended");
    } else {
        // The other side refused it, or another one lives; whoever dialled says why the dial failed.
        tracing::debug!(%peer, %gateway, reason = %end, "lane not used");
    }
}

/// Waits until a lane has retired and carries nothing any more. The other side may have opened a stream before
/// it knew, so it is waited for a little longer.
async fn spent(lane: &Lane) {
    let mut streams = lane.streams.subscribe();
    loop {
        // The sender lives as long as the lane.
        let _ = streams.wait_for(|streams| lane.is_retired() && *streams == 0).await;
        sleep(limits::RETIRED_LANE_IDLE).await;
        if *streams.borrow_and_update() == 0 {
            return;
        }
    }
}

/// Takes the other side's streams until the connection ends.
async fn accept(links: Links, lane: Arc<Lane>) {
    let mut pace = OpenPace::new(links.0.limits.opens_per_second, links.0.clock.now());
    while let Ok((send, recv)) = lane.connection.accept_bi().await {
        let (mut writer, mut reader) = (Writer::new(send), Reader::of(&lane, recv));
        if !pace.admits(links.0.clock.now()) {
            // Nothing of it was read, so the other side may go elsewhere with it.
            refuse(&mut writer, &mut reader, Reset::Limit);
            continue;
        }
        let served = serve(links.clone(), lane.clone(), writer, reader);
        links.0.shards.spawn_transient(lane.shard(), "stream", served);
        // New streams go in between those that are open, not before all of them.
        yield_now().await;
    }
}

/// Reads a stream's kind and hands it on.
async fn serve(links: Links, lane: Arc<Lane>, mut writer: Writer, mut reader: Reader) {
    let kind = match timeout(links.0.limits.header_timeout, reader.read_varint()).await {
        Ok(Ok(number)) => Kind::of(number),
        Ok(Err(_)) | Err(_) => return refuse(&mut writer, &mut reader, Reset::Header),
    };
    match kind {
        Some(kind @ (Kind::Control | Kind::Catalog)) => {
            let Ok(place) = lane.calls.clone().try_acquire_owned() else {
                return refuse(&mut writer, &mut reader, Reset::Limit);
            };
            let caller = Caller { lane, kind, _place: Arc::new(place) };
            // No lane has more than a few calls, so none keeps those of others waiting.
            let _ = links.0.calls.send(CallStream::new(writer, reader, caller)).await;
        }
        Some(Kind::Tcp) => {
            if timeout(links.0.limits.header_timeout, lane.wait_up()).await.is_err() {
                return refuse(&mut writer, &mut reader, Reset::Header);
            }
            (links.0.serve_tcp)(lane, writer, reader).await;
        }
        None => refuse(&mut writer, &mut reader, Reset::Unsupported),
    }
}

fn refuse(writer: &mut Writer, reader: &mut Reader, reason: Reset) {
    writer.reset(reason);
    reader.stop(reason);
}

/// Probes the lane and publishes what that says of it.
async fn probe(links: Links, lane: Arc<Lane>) {
    tokio::select! {
        biased;
        _ = lane.closed() => return,
        () = lane.wait_up() => {}
    }
    let clock = &links.0.clock;
    let mut liveness = Liveness::new(Some(lane.connection.rtt()), clock.now());
    let mut streams = lane.streams.subscribe();
    let room = Room::of(&lane.connection);
    let refusals = links.0.net.refusals();
    let mut refused = refusals.of(lane.address());
    loop {
        let wake = sleep_until(Instant::from_std(liveness.next_wake()));
        let actions = tokio::select! {
            biased;
            datagram = lane.connection.read_datagram() => match datagram {
                Ok(datagram) => heard(&mut liveness, datagram, clock.now()),
                Err(_) => return,
            },
            _ = streams.changed() => {
                let open = *streams.borrow_and_update() > 0;
                liveness.active(open, clock.now())
            }
            () = refused.told() => liveness.refused(place(&lane), clock.now()),
            () = wake => liveness.tick(clock.now()),
        };
        // Before the probe: it is what the room is for.
        match (liveness.state(), actions.send) {
            (LinkState::Up, _) => room.clear(),
            (_, Some(_)) => room.add(),
            (_, None) => {}
        }
        carry_out(&lane, actions, clock.now());
        // The other side may come from another port, or host, by now.
        if refused.address() != canonical(lane.address()) {
            refused = refusals.of(lane.address());
        }
        publish(&lane, &liveness, clock.now());
    }
}

/// What the address of the other side is.
fn place(lane: &Lane) -> RefusedAt {
    if lane.dialled() { RefusedAt::Home } else { RefusedAt::Source }
}

fn heard(liveness: &mut Liveness, datagram: Bytes, now: std::time::Instant) -> Actions {
    match v1::Probe::decode(datagram) {
        Ok(probe) => liveness.probe_received(Probe { seq: probe.seq, echo: probe.echo }, now),
        // A datagram of a later release: it proves nothing, but the peer was heard.
        Err(_) => {
            liveness.heard(now);
            Actions::default()
        }
    }
}

fn carry_out(lane: &Lane, actions: Actions, now: std::time::Instant) {
    if let Some(probe) = actions.send {
        let datagram = v1::Probe { seq: probe.seq, echo: probe.echo }.encode_to_vec();
        // A lane without room for 20 bytes of datagram is judged by the answers that do not come.
        let _ = lane.connection.send_datagram(Bytes::from(datagram));
    }
    let (peer, gateway) = (&lane.key().cluster, &lane.key().gateway);
    let stands = |state, cause| lane.set_standing(Standing { state, since: now, cause });
    match actions.change {
        Some(Change::BecameSuspect { cause }) => {
            stands(LinkState::Suspect, Some(cause));
            tracing::warn!(%peer, %gateway, reason = %cause, "lane suspect: new streams go elsewhere");
        }
        Some(Change::BecameDown { cause }) => {
            stands(LinkState::Down, Some(cause));
            tracing::warn!(%peer, %gateway, reason = %cause, "lane down: its streams are reset");
        }
        Some(Change::BecameUp) => {
            stands(LinkState::Up, None);
            tracing::info!(%peer, %gateway, "lane up again");
        }
        None => {}
    }
}

fn publish(lane: &Lane, liveness: &Liveness, now: std::time::Instant) {
    let ages = liveness.ages(now);
    let path = lane.connection.stats().path;
    let loss = if path.sent_packets == 0 { 0.0 } else { path.lost_packets as f64 / path.sent_packets as f64 };
    lane.figures.send_replace(LaneFigures {
        rtt: liveness.rtt().srtt,
        pto: liveness.pto(),
        loss,
        outbound_age: ages.outbound,
        inbound_age: ages.inbound,
    });
    let state = liveness.state();
    lane.health.send_if_modified(|known| std::mem::replace(known, state) != state);
    if state == LinkState::Down {
        lane.close(Close::Down);
    }
}
