//! Looks the name up as any client does: DNS packets over UDP.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::failed;
use crate::{
    model::{code::Problem, limits::DNS_UDP_BYTES_MAX},
    net::dns_udp,
};

/// Time for an answer from this host; then the question is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a question is asked.
const TRIES: usize = 4;
/// Pause after an answer that does not serve.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the name leads: its A record, and the port its SRV record says is really bound.
pub(super) async fn service_address(
    server: SocketAddr,
    name: &str,
    port: u16,
) -> Result<SocketAddr, Problem> {
    let host = ask(server, name, RecordType::A, |data| match data {
        RData::A(address) => Some(Ipv4Addr::from(*address)),
        _ => None,
    });
    let service = format!("_tcp-{port}._tcp.{name}");
    let bound = ask(server, &service, RecordType::SRV, |data| match data {
        RData::SRV(srv) => Some(srv.port),
        _ => None,
    });
    Ok(SocketAddr::from((host.await?, bound.await?)))
}

/// Asks until an answer holds what `pick` looks for.
async fn ask<T>(
    server: SocketAddr,
    name: &str,
    kind: RecordType,
    pick: impl Fn(&RData) -> Option<T>,
) -> Result<T, Problem> {
    let mut why = String::new();
    for _ in 0..TRIES {
        match exchange(server, name, kind).await {
            Ok(answer) => match answer.answers.iter().find_map(|record| pick(&record.data)) {
                Some(found) => return Ok(found),
                None => why = describe(&answer),
            },
            Err(error) => why = error,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(failed(format!("the DNS server {server} has no {kind} record of {name}: {why}")))
}

fn describe(answer: &Message) -> String {
    match answer.metadata.response_code {
        ResponseCode::NoError => "the answer holds none".to_owned(),
        code => format!("it answered {code}"),
    }
}

async fn exchange(server: SocketAddr, name: &str, kind: RecordType) -> Result<Message, String> {
    let local: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let socket = dns_udp(local).map_err(|error| error.to_string())?;
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).map_err(|error| error.to_string())?, kind));
    let packet = question.to_vec().map_err(|error| error.to_string())?;
    let mut buffer = [0; DNS_UDP_BYTES_MAX as usize];
    let round = async {
        socket.connect(server).await?;
        socket.send(&packet).await?;
        socket.recv(&mut buffer).await
    };
    let size = match tokio::time::timeout(ANSWER_TIMEOUT, round).await {
        Ok(received) => received.map_err(|error| error.to_string())?,
        Err(_) => return Err("no answer in time".to_owned()),
    };
    let answer = Message::from_vec(&buffer[..size]).map_err(|error| error.to_string())?;
    if answer.metadata.id == question.metadata.id {
        Ok(answer)
    } else {
        Err("the answer belongs to another question".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata::A, rdata::SRV};

    use super::*;

    /// Answers two questions, A and SRV, in either order.
    async fn serve(address: Ipv4Addr, port: u16) -> (SocketAddr, impl Future<Output = ()>) {
        let socket = dns_udp((Ipv4Addr::LOCALHOST, 0).into()).expect("socket");
        let at = socket.local_addr().expect("address");
        let served = async move {
            for _ in 0..2 {
                let mut buffer = [0; 512];
                let (size, from) = socket.recv_from(&mut buffer).await.expect("question");
                let question = Message::from_vec(&buffer[..size]).expect("message");
                let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
                let name = question.queries[0].name().clone();
                let data = match question.queries[0].query_type() {
                    RecordType::A => RData::A(A(address)),
                    _ => RData::SRV(SRV::new(0, 0, port, name.clone())),
                };
                answer.answers.push(Record::from_rdata(name, 5, data));
                socket.send_to(&answer.to_vec().expect("packet"), from).await.expect("send");
            }
        };
        (at, served)
    }

    #[tokio::test]
    async fn the_address_comes_from_a_and_the_port_from_srv() {
        let (server, served) = serve(Ipv4Addr::new(127, 77, 0, 1), 20_080).await;
        let (found, ()) = tokio::join!(service_address(server, "web.demo.svc.clusterset.local", 80), served);
        assert_eq!(found.expect("found").to_string(), "127.77.0.1:20080");
    }
}
