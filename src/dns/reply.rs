//! From a decoded packet to an encoded one: opcodes, classes, EDNS, sizes. Knows nothing of services.

use std::{net::SocketAddr, slice, sync::Arc};

use hickory_proto::{
    op::{Edns, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record,
        rdata::{A, NS, SOA, SRV, TXT},
    },
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::xfer::Protocol,
    server::Request,
    zone_handler::{MessageResponse, MessageResponseBuilder, Queries},
};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{Inputs, Observed};
use crate::model::{
    limits,
    zone::{self, Data, DnsName, Owner, QueryType, Question, Rcode},
};

/// Largest UDP answer without EDNS (RFC 1035 section 4.2.1).
const PLAIN_UDP_BYTES_MAX: u16 = 512;
/// An OPT record without options (RFC 6891 section 6.1.2).
const OPT_BYTES: u16 = 11;
/// A DNS header (RFC 1035 section 4.1.1).
const HEADER_BYTES: usize = 12;

/// Answers requests, one by one, without waiting for anything. Clones share what they ask.
#[derive(Clone)]
pub(super) struct Responder(Arc<Inputs>);

/// Everything of an answer but the question.
pub(super) struct Reply {
    metadata: Metadata,
    edns: Option<Edns>,
    answers: Vec<Record>,
    soa: Option<Record>,
    additionals: Vec<Record>,
}

type Response<'a> = MessageResponse<
    'a,
    'a,
    slice::Iter<'a, Record>,
    std::iter::Empty<&'a Record>,
    std::option::Iter<'a, Record>,
    slice::Iter<'a, Record>,
>;

impl Responder {
    pub(super) fn new(inputs: Inputs) -> Self {
        Self(Arc::new(inputs))
    }

    /// The answer to one request, cut to what its transport carries.
    pub(super) fn reply(&self, request: &Request) -> Reply {
        let started = (self.0.now)();
        let mut reply = Reply::to(request);
        let question = match request.queries.queries() {
            [question] => Some(question.original()),
            _ => None,
        };
        let kind = question.map(|question| QueryType::from_number(question.query_type.into()));
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            reply.metadata.response_code = ResponseCode::BADVERS;
        } else if request.metadata.op_code != OpCode::Query {
            reply.metadata.response_code = ResponseCode::NotImp;
        } else if let (Some(question), Some(kind)) = (question, kind) {
            if question.query_class == DNSClass::IN {
                self.answer(question, kind, &mut reply);
            } else {
                reply.metadata.response_code = ResponseCode::Refused;
            }
        } else {
            reply.metadata.response_code = ResponseCode::FormErr; // RFC 9619: exactly one question
        }
        reply.fit(&request.queries, request.protocol());
        (self.0.observe)(Observed {
            kind: kind.map_or("none", QueryType::label),
            rcode: rcode_label(reply.metadata.response_code),
            took: (self.0.now)().saturating_duration_since(started),
        });
        reply
    }

    fn answer(&self, question: &Query, kind: QueryType, reply: &mut Reply) {
        let labels: Vec<&[u8]> = question.name.iter().collect();
        let view = (self.0.newest)();
        let mut answer = zone::answer(&Question { labels: &labels, kind }, &*view, (self.0.now)());
        if answer.answers.len() > 1 {
            answer.answers.shuffle(&mut StdRng::seed_from_u64((self.0.seed)()));
        }
        reply.metadata.authoritative = answer.authoritative;
        reply.metadata.response_code = match answer.rcode {
            Rcode::NoError => ResponseCode::NoError,
            Rcode::NxDomain => ResponseCode::NXDomain,
            Rcode::ServFail => ResponseCode::ServFail,
            Rcode::Refused => ResponseCode::Refused,
        };
        let records = |records: Vec<zone::Record>| {
            records.into_iter().filter_map(|of| record(of, &question.name)).collect::<Vec<_>>()
        };
        reply.answers = records(answer.answers);
        reply.additionals = records(answer.additionals);
        reply.soa = answer.soa.and_then(|soa| record(soa, &question.name));
    }

    /// From bytes to bytes. `None` when there is nothing to answer: less than a header, or a response.
    pub(super) fn reply_to_packet(
        &self,
        packet: Vec<u8>,
        from: SocketAddr,
        protocol: Protocol,
    ) -> Option<Vec<u8>> {
        let &[id_0, id_1, flags, ..] = packet.get(..HEADER_BYTES)? else { return None };
        if flags & 0x80 != 0 {
            return None; // answering answers is how loops begin
        }
        let Ok(request) = Request::from_bytes(packet, from, protocol) else {
            // The opcode and RD are copied; FORMERR; all counts zero.
            let mut header = vec![id_0, id_1, 0x80 | (flags & 0x79), 1];
            header.resize(HEADER_BYTES, 0);
            return Some(header);
        };
        let reply = self.reply(&request);
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP_BYTES_MAX));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(reply.size_limit(protocol));
        reply.response(&request.queries, reply.edns.as_ref()).destructive_emit(&mut encoder).ok()?;
        Some(bytes)
    }
}

impl Reply {
    /// An empty one. EDNS is answered with EDNS (RFC 6891 section 6.1.1): our version, the size we are ready
    /// to send, and the DO bit as it was (RFC 3225 section 3).
    fn to(request: &Request) -> Self {
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_version(0)
                .set_max_payload(asked.max_payload().min(limits::DNS_UDP_BYTES_MAX))
                .set_dnssec_ok(asked.flags().dnssec_ok);
            edns
        });
        let metadata = Metadata::response_from_request(&request.metadata);
        Self { metadata, edns, answers: Vec::new(), soa: None, additionals: Vec::new() }
    }

    fn size_limit(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Udp => self.edns.as_ref().map_or(PLAIN_UDP_BYTES_MAX, Edns::max_payload),
            _ => u16::MAX,
        }
    }

    fn response<'a>(&'a self, queries: &'a Queries, edns: Option<&'a Edns>) -> Response<'a> {
        MessageResponseBuilder::new(queries, edns).build(
            self.metadata,
            &self.answers,
            std::iter::empty(),
            &self.soa,
            &self.additionals,
        )
    }

    /// Drops what does not fit, so that the OPT record always does. Missing answers set TC, missing
    /// additionals do not (RFC 2181 section 9).
    fn fit(&mut self, queries: &Queries, protocol: Protocol) {
        if self.answers.len() + self.additionals.len() <= 1 {
            return;
        }
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.size_limit(protocol) - self.edns.as_ref().map_or(0, |_| OPT_BYTES));
        let Ok(fitting) = self.response(queries, None).destructive_emit(&mut encoder) else { return };
        let counts = fitting.counts();
        if usize::from(counts.answers) < self.answers.len() {
            self.metadata.truncation = true;
            self.answers.truncate(counts.answers.into());
            self.additionals.clear();
        }
        self.additionals.truncate(counts.additionals.into());
    }
}

/// In hickory's types. `None` for a name it cannot carry, of which the zone has none.
fn record(of: zone::Record, asked: &Name) -> Option<Record> {
    let owner = match of.owner {
        Owner::Asked => asked.clone(),
        Owner::Named(name) => hickory_name(&name)?,
    };
    let seconds = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let data = match of.data {
        Data::A(ip) => RData::A(A(ip)),
        Data::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(priority, weight, port, hickory_name(&target)?))
        }
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.to_owned()])),
        Data::Ns(name) => RData::NS(NS(hickory_name(&name)?)),
        Data::Soa(soa) => RData::SOA(SOA::new(
            hickory_name(&soa.server)?,
            hickory_name(&soa.contact)?,
            soa.serial,
            seconds(soa.refresh),
            seconds(soa.retry),
            seconds(soa.expire),
            soa.minimum,
        )),
    };
    Some(Record::from_rdata(owner, of.ttl, data))
}

/// ASCII parsing, since the IDNA one refuses underscores.
fn hickory_name(name: &DnsName) -> Option<Name> {
    let mut parsed = Name::from_ascii(name.as_str()).ok()?;
    parsed.set_fqdn(true);
    Some(parsed)
}

fn rcode_label(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}
