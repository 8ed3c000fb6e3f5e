//! Packets to begin with: each kind that is cut or put together, and some that are not.

/// Name and bytes of an input.
type Seed = (String, Vec<u8>);

/// Payload bytes of a segment.
const SIZE: usize = 100;

/// Single packets.
pub(crate) fn packets() -> Vec<Seed> {
    kinds(40)
}

/// Packets of several segments, behind the bytes that [`crate::packets::split_merge`] wants: with nothing lost, and with
/// some lost and some twice.
pub(crate) fn super_packets() -> Vec<Seed> {
    let with = |choice: &[u8], name: &str, payload_len| {
        let choice = [&(SIZE as u16).to_be_bytes()[..], choice].concat();
        let name = name.to_owned();
        kinds(payload_len)
            .into_iter()
            .map(move |(kind, packet)| (format!("{kind}-{name}"), [&choice[..], &packet].concat()))
    };
    with(&[0; 4], "whole", 7 * SIZE)
        .chain(with(&[0; 4], "short-end", 3 * SIZE + 33))
        .chain(with(&[0x21, 0x12, 0, 0x08], "lossy", 9 * SIZE))
        .collect()
}

/// Sequences of segments as an honest sender makes them, in the form that [`crate::packets::trailer`] wants.
pub(crate) fn with_trailers() -> Vec<Seed> {
    let sequence = |(name, packet): Seed| {
        let headers = packet.len() - 3 * SIZE;
        let mut out = Vec::new();
        for index in 0..3u8 {
            let at = headers + usize::from(index) * SIZE;
            let mut segment = [&packet[..headers], &packet[at..at + SIZE]].concat();
            fit(&mut segment, index);
            // CSUM_PARTIAL and GSO_SEG, FIRST, LAST.
            let flags = 6 | if index == 0 { 8 } else { 0 } | if index == 2 { 16 } else { 0 };
            out.extend([flags, index, 1]);
            out.extend((segment.len() as u16).to_be_bytes());
            out.extend(segment);
        }
        (name, out)
    };
    kinds(3 * SIZE).into_iter().map(sequence).collect()
}

/// The fields of a segment that differ from its super-packet's.
fn fit(segment: &mut [u8], index: u8) {
    let len = segment.len();
    let network = if segment[0] >> 4 == 4 {
        segment[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        segment[5] = index;
        20
    } else {
        segment[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        40
    };
    let is_tcp = segment[if network == 20 { 9 } else { 6 }] == 6;
    if is_tcp {
        let sequence = (u32::from(index) * SIZE as u32).to_be_bytes();
        segment[network + 4..network + 8].copy_from_slice(&sequence);
    } else {
        segment[network + 4..network + 6].copy_from_slice(&((len - network) as u16).to_be_bytes());
    }
}

/// TCP, UDP, and another protocol over both versions of IP, with so much payload.
fn kinds(payload_len: usize) -> Vec<Seed> {
    let payload: Vec<u8> = (0..payload_len).map(|byte| byte as u8).collect();
    let mut kinds = Vec::new();
    for (name, protocol, header) in [
        ("tcp", 6, tcp(0x10, &[])),
        ("tcp-push-options", 6, tcp(0x18, &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])),
        ("tcp-ecn-fin", 6, tcp(0x80 | 0x10 | 0x01, &[])),
        ("udp", 17, [&[0x30, 0x39, 0, 53], &(8 + payload_len as u16).to_be_bytes()[..], &[0, 0]].concat()),
        ("gre", 47, vec![0, 0, 8, 0]),
    ] {
        let body = [&header[..], &payload].concat();
        kinds.push((format!("{name}-4"), v4(protocol, &body)));
        kinds.push((format!("{name}-6"), v6(protocol, &body)));
    }
    kinds
}

fn tcp(flags: u8, options: &[u8]) -> Vec<u8> {
    let offset = (((20 + options.len()) / 4) << 4) as u8;
    let fixed = [0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 9, offset, flags, 0xff, 0xff, 0, 0, 0, 0];
    [&fixed, options].concat()
}

/// RFC 791; the checksum is left open.
fn v4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = (20 + body.len() as u16).to_be_bytes();
    let header = [0x45, 0, len[0], len[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2];
    [&header, body].concat()
}

/// RFC 8200.
fn v6(protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
    for last in [1, 2] {
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    [header, body.to_vec()].concat()
}
