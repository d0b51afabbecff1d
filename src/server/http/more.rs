//! Long replies, which are made in parts.

/// More of a reply, made when what there was is sent.
pub trait More: Send {
    /// Appends the next part, of some tens of KiB and at least a byte. Returns whether there may be another.
    fn next(&mut self, out: &mut Vec<u8>) -> bool;
}

/// Room for the length of a chunk: eight hexadecimal digits and CR LF.
const CHUNK_HEAD: usize = 10;

/// Begins a chunk of a body in chunks (RFC 9112, 7.1), or of any other. Returns where it begins, for [`end_chunk`].
pub fn begin_chunk(out: &mut Vec<u8>, chunked: bool) -> Option<usize> {
    chunked.then(|| {
        out.extend_from_slice(&[b'0'; CHUNK_HEAD]);
        out.len()
    })
}

/// Ends a chunk, and the body if it is the last.
pub fn end_chunk(out: &mut Vec<u8>, begun: Option<usize>, last: bool) {
    let Some(begun) = begun else { return };
    let length = out.len() - begun;
    let head = format!("{length:08x}\r\n");
    out[begun - CHUNK_HEAD..begun].copy_from_slice(head.as_bytes());
    out.extend_from_slice(b"\r\n");
    if last {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}
