//! The last packets that were offered to the WAN, in memory, and their writing as a pcapng file (draft-ietf-opsawg-
//! pcapng). No tool is needed to make it; any that reads pcapng shows it. Packets are cut after their first bytes.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufWriter, Write},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::link::{Counts, Nanos};

/// Bytes kept of a packet: headers, and what of a payload is not sealed.
const START: usize = 256;
/// Bytes kept of all packets; the oldest are forgotten first.
const ALL: usize = 32 << 20;
/// What a packet takes beside its bytes.
const EACH: usize = 96;
/// Packets begin with an IP header.
const RAW: u16 = 101;

/// A packet as it was offered.
struct Seen {
    at: Nanos,
    link: (usize, usize),
    length: usize,
    start: Vec<u8>,
    fate: String,
}

/// The last packets.
#[derive(Default)]
pub(crate) struct Capture {
    seen: VecDeque<Seen>,
    bytes: usize,
}

/// The bytes of a packet that are kept, behind a header made for it when it came as a datagram.
pub(super) fn start_of(packet: &[u8], datagram: Option<(SocketAddr, SocketAddr)>) -> (usize, Vec<u8>) {
    let mut start = match datagram {
        Some((from, to)) => header(from, to, packet.len()),
        None => Vec::new(),
    };
    let length = start.len() + packet.len();
    let room = START.saturating_sub(start.len()).min(packet.len());
    start.extend_from_slice(&packet[..room]);
    (length, start)
}

/// IPv4 and UDP headers without checksums; nothing for other addresses, of which the relay has none.
fn header(from: SocketAddr, to: SocketAddr, payload: usize) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { return Vec::new() };
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(short(payload + 28));
    header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header.extend(short(payload + 8));
    header.extend([0, 0]);
    header
}

impl Capture {
    /// Remembers a packet; `before` and `after` are the counts of its link around its offer.
    pub(super) fn remember(
        &mut self,
        at: Nanos,
        link: (usize, usize),
        (length, start): (usize, Vec<u8>),
        before: Counts,
        after: Counts,
    ) {
        self.bytes += start.len() + EACH;
        self.seen.push_back(Seen { at, link, length, start, fate: after.fate_since(before) });
        while self.bytes > ALL {
            let Some(oldest) = self.seen.pop_front() else { break };
            self.bytes -= oldest.start.len() + EACH;
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
        self.bytes = 0;
    }

    /// Writes what is remembered; `epoch` is the Unix time in nanoseconds at which the clock stood at zero.
    pub(super) fn write(&self, path: &Path, names: &[String], epoch: u64) -> io::Result<usize> {
        let mut file = BufWriter::new(File::create(path)?);
        let name = |index: usize| names.get(index).map_or("*", String::as_str);
        // One more than there are clusters: what belongs to none.
        let sides = names.len() + 1;
        let application = format!("testbed {}", env!("CARGO_PKG_VERSION"));
        let mut section = 0x1A2B_3C4D_u32.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0]);
        section.extend(u64::MAX.to_le_bytes());
        section.extend(option(4, application.as_bytes()));
        block(&mut file, 0x0A0D_0D0A, &section)?;
        for from in 0..sides {
            for to in 0..sides {
                let mut interface = RAW.to_le_bytes().to_vec();
                interface.extend([0, 0]);
                interface.extend((START as u32).to_le_bytes());
                interface.extend(option(2, format!("{} -> {}", name(from), name(to)).as_bytes()));
                // Times are in nanoseconds.
                interface.extend(option(9, &[9]));
                block(&mut file, 1, &interface)?;
            }
        }
        for seen in &self.seen {
            let number = seen.link.0.min(sides - 1) * sides + seen.link.1.min(sides - 1);
            let time = epoch + seen.at;
            let mut packet = (number as u32).to_le_bytes().to_vec();
            packet.extend(((time >> 32) as u32).to_le_bytes());
            packet.extend((time as u32).to_le_bytes());
            packet.extend((seen.start.len() as u32).to_le_bytes());
            packet.extend((seen.length as u32).to_le_bytes());
            packet.extend(padded(&seen.start));
            if !seen.fate.is_empty() {
                packet.extend(option(1, seen.fate.as_bytes()));
            }
            block(&mut file, 6, &packet)?;
        }
        file.flush()?;
        Ok(self.seen.len())
    }
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = code.to_le_bytes().to_vec();
    option.extend((value.len() as u16).to_le_bytes());
    option.extend(padded(value));
    option
}

/// A block: type, length, body, length again. Options may end with the block.
fn block(file: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    file.write_all(&kind.to_le_bytes())?;
    file.write_all(&length)?;
    file.write_all(body)?;
    file.write_all(&length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lost: u64) -> Counts {
        Counts { offered: 1, lost, ..Counts::default() }
    }

    /// Types and bodies of the blocks.
    fn blocks(file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut all, mut at) = (Vec::new(), 0);
        while at < file.len() {
            let length = word(at + 4) as usize;
            assert!(length.is_multiple_of(4) && word(at + length - 4) as usize == length);
            all.push((word(at), file[at + 8..at + length - 4].to_vec()));
            at += length;
        }
        all
    }

    #[test]
    fn a_written_capture_has_every_packet_with_its_link_its_time_and_its_fate() {
        let folder = tempfile::tempdir().unwrap();
        let (path, names) = (folder.path().join("c.pcapng"), ["east".to_owned(), "west".to_owned()]);
        let mut capture = Capture::default();
        let datagram = ("127.1.0.1:9".parse().unwrap(), "127.2.0.1:7443".parse().unwrap());
        capture.remember(5, (0, 1), start_of(b"hello", Some(datagram)), count(0), count(0));
        capture.remember(6, (1, 0), start_of(&[0x45; 1400], None), count(0), count(1));
        assert_eq!(capture.write(&path, &names, 1 << 32).unwrap(), 2);
        let blocks = blocks(&std::fs::read(&path).unwrap());
        assert_eq!(blocks.iter().map(|(kind, _)| *kind).filter(|kind| *kind == 1).count(), 9);
        let packets: Vec<&[u8]> = blocks.iter().filter(|(kind, _)| *kind == 6).map(|(_, b)| &b[..]).collect();
        let word = |body: &[u8], at: usize| u32::from_le_bytes(body[4 * at..4 * at + 4].try_into().unwrap());
        let heads: Vec<Vec<u32>> = packets.iter().map(|b| (0..5).map(|at| word(b, at)).collect()).collect();
        assert_eq!(heads, [[1, 1, 5, 33, 33], [3, 1, 6, 256, 1400]]);
        assert_eq!(&packets[0][20 + 28..20 + 33], b"hello", "behind 28 bytes of headers");
        assert!(packets[1].windows(4).any(|window| window == b"lost"));
        assert!(!packets[0].windows(4).any(|window| window == b"lost"));
    }

    #[test]
    fn the_oldest_packets_are_forgotten_first() {
        let mut capture = Capture::default();
        for at in 0..200_000 {
            capture.remember(at, (0, 1), start_of(&[0; 1400], None), count(0), count(0));
        }
        assert!(capture.bytes <= ALL);
        assert_eq!(capture.seen.back().unwrap().at, 199_999);
        assert_eq!(capture.seen.len(), ALL / (START + EACH));
    }
}
