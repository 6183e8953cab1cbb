//! Writes MMDB files (MaxMind DB format 2.0, IPv6 tree of 24-bit records; IPv4 is its lowest part).

use ipnet::IpNet;

/// A value in the data section.
pub(crate) enum Value {
    Text(&'static str),
    Number(u32),
    Double(f64),
    Map(Vec<(&'static str, Value)>),
}

const METADATA_MARK: &[u8] = b"\xab\xcd\xefMaxMind.com";
const TYPE_TEXT: u8 = 2;
const TYPE_DOUBLE: u8 = 3;
const TYPE_U16: u8 = 5;
const TYPE_U32: u8 = 6;
const TYPE_MAP: u8 = 7;

/// A database that maps networks to values.
pub(crate) fn write(networks: &[(IpNet, Value)]) -> Vec<u8> {
    let mut nodes: Vec<[Option<Leaf>; 2]> = vec![[None, None]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let offset = data.len() as u32;
        encode(value, &mut data);
        let (bits, length) = match network {
            IpNet::V4(v4) => (u128::from(u32::from(v4.addr())), 96 + v4.prefix_len()),
            IpNet::V6(v6) => (u128::from(v6.addr()), v6.prefix_len()),
        };
        let mut node = 0;
        for depth in 0..length {
            let bit = (bits >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                nodes[node][bit] = Some(Leaf::Data(offset));
            } else if let Some(Leaf::Node(next)) = nodes[node][bit] {
                node = next;
            } else {
                nodes.push([None, None]);
                let next = nodes.len() - 1;
                nodes[node][bit] = Some(Leaf::Node(next));
                node = next;
            }
        }
    }
    let count = nodes.len() as u32;
    let mut file = Vec::new();
    for leaf in nodes.iter().flatten() {
        let record = match leaf {
            None => count,
            Some(Leaf::Node(node)) => *node as u32,
            Some(Leaf::Data(offset)) => count + 16 + offset,
        };
        file.extend_from_slice(&record.to_be_bytes()[1..]);
    }
    file.extend_from_slice(&[0; 16]);
    file.extend_from_slice(&data);
    file.extend_from_slice(METADATA_MARK);
    metadata(count, &mut file);
    file
}

#[derive(Clone, Copy)]
enum Leaf {
    Node(usize),
    Data(u32),
}

fn metadata(node_count: u32, out: &mut Vec<u8>) {
    control(TYPE_MAP, 9, out);
    for (name, number) in [
        ("binary_format_major_version", 2),
        ("binary_format_minor_version", 0),
        ("ip_version", 6),
        ("record_size", 24),
    ] {
        encode(&Value::Text(name), out);
        control(TYPE_U16, 2, out);
        out.extend_from_slice(&u16::to_be_bytes(number));
    }
    encode(&Value::Text("node_count"), out);
    encode(&Value::Number(node_count), out);
    encode(&Value::Text("build_epoch"), out);
    // Extended type 9: a number of up to 64 bits, here of one byte.
    out.extend_from_slice(&[0x01, 2, 1]);
    encode(&Value::Text("database_type"), out);
    encode(&Value::Text("Test"), out);
    encode(&Value::Text("languages"), out);
    // Extended type 11: an array, here an empty one.
    out.extend_from_slice(&[0x00, 4]);
    encode(&Value::Text("description"), out);
    encode(&Value::Map(Vec::new()), out);
}

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            control(TYPE_TEXT, text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Number(number) => {
            control(TYPE_U32, 4, out);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Double(number) => {
            control(TYPE_DOUBLE, 8, out);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Map(entries) => {
            control(TYPE_MAP, entries.len(), out);
            for (name, value) in entries {
                encode(&Value::Text(name), out);
                encode(value, out);
            }
        }
    }
}

fn control(kind: u8, len: usize, out: &mut Vec<u8>) {
    if len < 29 {
        out.push(kind << 5 | len as u8);
    } else {
        out.extend_from_slice(&[kind << 5 | 29, (len - 29) as u8]);
    }
}
