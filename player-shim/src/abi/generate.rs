//! The TypeScript side of the interface.

use std::fmt::Write as _;

use swarm_core::{limits, record, wire};

use super::{KINDS, Kind, NEIGHBOUR, STATS, Type};

/// The text of `js/src/abi.gen.ts`.
pub fn typescript() -> String {
    let mut out = String::from(
        "// Generated from player-shim/src/abi.rs by its tests (SHOAL_UPDATE=1). Do not edit.\n\n\
         export type Action =\n",
    );
    for kind in KINDS {
        let _ = writeln!(out, "  | {{ kind: \"{}\"{} }}", kind.name, fields(kind));
    }
    out.truncate(out.len() - 1);
    out.push_str(";\n\n/** A field: its name, and 0 number, 1 boolean, 2 id, 3 wide number, 4 bytes, or the names of a choice. */\n");
    out.push_str("export type Field = readonly [string, number | readonly string[]];\n\n");
    out.push_str(
        "export const KINDS: readonly (readonly [Action[\"kind\"], readonly Field[]])[] = [\n",
    );
    for kind in KINDS {
        let fields: Vec<String> = kind
            .fields
            .iter()
            .map(|(name, ty)| format!("[\"{name}\", {}]", code(*ty)))
            .collect();
        let _ = writeln!(out, "  [\"{}\", [{}]],", kind.name, fields.join(", "));
    }
    out.push_str("];\n\n");
    list(&mut out, "STATS", STATS);
    list(&mut out, "NEIGHBOUR", NEIGHBOUR);
    constants(&mut out);
    out
}

fn fields(kind: &Kind) -> String {
    let mut out = String::new();
    for (name, ty) in kind.fields {
        let _ = write!(out, "; {name}: {}", typescript_type(*ty));
    }
    out
}

fn typescript_type(ty: Type) -> String {
    match ty {
        Type::U32 | Type::Wide => "number".to_owned(),
        Type::Bool => "boolean".to_owned(),
        Type::OneOf(names) => {
            let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
            quoted.join(" | ")
        }
        Type::Id => "string".to_owned(),
        Type::Bytes => "Uint8Array".to_owned(),
    }
}

fn code(ty: Type) -> String {
    match ty {
        Type::U32 => "0".to_owned(),
        Type::Bool => "1".to_owned(),
        Type::Id => "2".to_owned(),
        Type::Wide => "3".to_owned(),
        Type::Bytes => "4".to_owned(),
        Type::OneOf(names) => format!("{names:?}"),
    }
}

fn list(out: &mut String, name: &str, items: &[&str]) {
    let _ = writeln!(out, "export const {name} = {items:?} as const;");
}

fn constants(out: &mut String) {
    let numbers: [(&str, u64); 9] = [
        ("RECORD_KIND", wire::peer::RECORD.into()),
        ("CHUNK_KIND", wire::peer::CHUNK.into()),
        ("CHUNK_HEADER_LEN", wire::peer::CHUNK_HEADER_LEN as u64),
        ("CHUNK_LEN_MAX", limits::CHUNK_LEN_MAX.into()),
        ("PEER_FRAME_LEN_MAX", limits::PEER_FRAME_LEN_MAX as u64),
        (
            "TRACKER_FRAME_LEN_MAX",
            limits::TRACKER_FRAME_LEN_MAX as u64,
        ),
        ("SEGMENT_LEN_MAX", limits::SEGMENT_LEN_MAX.into()),
        ("REQUESTS_MAX", limits::REQUESTS_MAX as u64),
        ("NEIGHBOURS_MAX", limits::NEIGHBOURS_MAX as u64),
    ];
    for (name, value) in numbers {
        let _ = writeln!(out, "export const {name} = {value};");
    }
    let _ = writeln!(
        out,
        "export const RECORD_HEADER = \"{}\";",
        record::RECORD_HEADER
    );
    let _ = writeln!(out, "export const SUBPROTOCOL = \"{}\";", wire::SUBPROTOCOL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_file_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/js/src/abi.gen.ts");
        if std::env::var_os("SHOAL_UPDATE").is_some() {
            std::fs::write(path, typescript()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(found, typescript(), "run this test with SHOAL_UPDATE=1");
    }
}
