//! Commands as bytes.

/// Begins a command of so many arguments, its name included.
pub fn command(into: &mut Vec<u8>, arguments: usize) {
    head(into, b'*', arguments);
}

/// One argument.
pub fn argument(into: &mut Vec<u8>, bytes: &[u8]) {
    head(into, b'$', bytes.len());
    into.extend_from_slice(bytes);
    into.extend_from_slice(b"\r\n");
}

/// An argument that is a number.
pub fn number(into: &mut Vec<u8>, number: impl itoa::Integer) {
    argument(into, itoa::Buffer::new().format(number).as_bytes());
}

/// A whole command.
pub fn whole(into: &mut Vec<u8>, arguments: &[&[u8]]) {
    command(into, arguments.len());
    for bytes in arguments {
        argument(into, bytes);
    }
}

/// Two arguments.
pub fn two(into: &mut Vec<u8>, first: &[u8], second: &[u8]) {
    argument(into, first);
    argument(into, second);
}

fn head(into: &mut Vec<u8>, kind: u8, number: usize) {
    into.push(kind);
    into.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_what_the_library_would_send() {
        let mut packed = Vec::new();
        whole(&mut packed, &[b"SET", b"a\r\nb", b""]);
        assert_eq!(packed, redis::cmd("SET").arg(b"a\r\nb").arg(b"").get_packed_command());
        let mut packed = Vec::new();
        command(&mut packed, 2);
        argument(&mut packed, b"GET");
        number(&mut packed, u64::MAX);
        assert_eq!(packed, redis::cmd("GET").arg(u64::MAX).get_packed_command());
    }
}
