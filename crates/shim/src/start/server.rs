//! The process that has a group already: what it serves.
//!
//! It may be a shim of another kind or of an older version, and a reply that promises more than it serves
//! strands the container (containerd/containerd#10888).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use dunnage_api::Code;
use dunnage_api::task::{self, ConnectRequest};
use dunnage_api::ttrpc::envelope;
use dunnage_api::ttrpc::frame::{HEADER_LEN, Header, MAX_PAYLOAD, kind};
use dunnage_spec::ContainerId;

use super::reply::Serves;
use crate::address::Address;

const PATIENCE: Duration = Duration::from_secs(2);

/// Calls Connect, which no shim refuses, under the newest name.
///
/// A blocking call on a plain socket: `start` has no runtime.
pub(crate) fn serves(address: &Address, id: &ContainerId) -> io::Result<Serves> {
    let mut stream = UnixStream::connect(address.path())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = ConnectRequest { id: id.to_string() };
    let frame = envelope::encode_request(1, (task::V3, "Connect"), &request, Some(PATIENCE))
        .map_err(io::Error::other)?;
    stream.write_all(&frame)?;
    match envelope::decode_response(&read_answer(&mut stream)?).map_err(io::Error::other)? {
        Err(status) if status.code == Code::Unimplemented => Ok(Serves::V2),
        // ttrpc-rust says it so.
        Err(status) if status.code == Code::InvalidArgument => Ok(Serves::V2),
        _ => Ok(Serves::V3),
    }
}

fn read_answer(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header)?;
    let header = Header::from_bytes(&header);
    if header.kind != kind::RESPONSE || header.length > MAX_PAYLOAD {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no answer but {header:?}")));
    }
    let mut payload = vec![0; header.length as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use dunnage_api::Status;
    use dunnage_api::task::ConnectResponse;

    use super::*;

    fn ask(answer: Result<ConnectResponse, Status>) -> Serves {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut header = [0; HEADER_LEN];
            stream.read_exact(&mut header).unwrap();
            let mut payload = vec![0; Header::from_bytes(&header).length as usize];
            stream.read_exact(&mut payload).unwrap();
            let request = envelope::Request::decode(&payload).unwrap();
            assert_eq!((request.service, request.method), ("containerd.task.v3.Task", "Connect"));
            stream.write_all(&envelope::encode_response(1, answer)).unwrap();
        });
        let address = Address::parse(&format!("unix://{}", path.display())).unwrap();
        let serves = serves(&address, &"pod".parse().unwrap()).unwrap();
        server.join().unwrap();
        serves
    }

    #[test]
    fn a_server_that_knows_the_newer_name_serves_it() {
        assert_eq!(ask(Ok(ConnectResponse::default())), Serves::V3);
        assert_eq!(ask(Err(Status::not_found("pod"))), Serves::V3);
    }

    #[test]
    fn servers_that_do_not_know_it_say_so_in_two_ways() {
        assert_eq!(ask(Err(Status::unimplemented("service"))), Serves::V2);
        assert_eq!(
            ask(Err(Status::invalid_argument("/containerd.task.v3.Task/Connect is not supported"))),
            Serves::V2
        );
    }
}
