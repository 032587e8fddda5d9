//! The macro that turns a table of methods into a service: a trait to implement, a server side that finds the
//! handler, and a typed client. One line per method.

/// `handler = "Method"(Request) -> Response, detached;`
///
/// `detached` and `attached` are the two ways a handler is run, see [`Call`](crate::ttrpc::Call).
macro_rules! service {
    (
        $(#[$doc:meta])*
        $service:ident, $server:ident, $client:ident in [$default:expr $(, $older:expr)* $(,)?] {
            $(
                $(#[$method_doc:meta])*
                $handler:ident = $method:literal($request:ty) -> $response:ty, $run:ident;
            )*
        }
    ) => {
        $(#[$doc])*
        #[expect(async_fn_in_trait, reason = "all of it runs on one thread, so no handler has to be Send")]
        pub trait $service: 'static {
            $(
                $(#[$method_doc])*
                async fn $handler(&self, request: $request) -> Result<$response, $crate::Status>;
            )*
        }

        #[doc = concat!("Serves a [`", stringify!($service), "`] under every name it has.")]
        #[derive(Debug)]
        pub struct $server<S>(std::rc::Rc<S>);

        impl<S: $service> $server<S> {
            /// The service is shared with whoever else needs it on this thread.
            pub fn new(service: std::rc::Rc<S>) -> Self {
                Self(service)
            }
        }

        impl<S: $service> $crate::ttrpc::Dispatch for $server<S> {
            fn names(&self) -> &'static [&'static str] {
                &[$default $(, $older)*]
            }

            fn dispatch(&self, method: &str, payload: &[u8], call: $crate::ttrpc::Call) {
                match method {
                    $($method => {
                        let service = std::rc::Rc::clone(&self.0);
                        call.$run(payload, move |request: $request| async move {
                            service.$handler(request).await
                        });
                    })*
                    _ => call.refuse_method(method),
                }
            }
        }

        #[doc = concat!("Calls a [`", stringify!($service), "`].")]
        #[derive(Debug, Clone)]
        pub struct $client {
            client: $crate::ttrpc::Client,
            name: &'static str,
            timeout: Option<std::time::Duration>,
        }

        impl $client {
            /// Calls under the service's newest name, without a time limit.
            #[must_use]
            pub fn new(client: $crate::ttrpc::Client) -> Self {
                Self { client, name: $default, timeout: None }
            }

            /// The same under another name of the service.
            #[must_use]
            pub fn named(self, name: &'static str) -> Self {
                Self { name, ..self }
            }

            /// The same with a limit on the time of each call.
            #[must_use]
            pub fn timeout(self, timeout: std::time::Duration) -> Self {
                Self { timeout: Some(timeout), ..self }
            }

            /// The connection below.
            #[must_use]
            pub fn connection(&self) -> &$crate::ttrpc::Client {
                &self.client
            }

            $(
                $(#[$method_doc])*
                ///
                /// # Errors
                /// The service's own status, or the connection's failure.
                pub async fn $handler(&self, request: &$request) -> Result<$response, $crate::ttrpc::CallError> {
                    self.client.call(self.name, $method, request, self.timeout).await
                }
            )*
        }

        #[cfg(test)]
        #[test]
        fn the_table_has_every_method_of_the_proto() {
            use prost::Name;
            let table = [$(($method, <$request>::full_name(), <$response>::full_name())),*];
            for name in [$default $(, $older)*] {
                assert_eq!($crate::service::methods_in_proto(name), table.clone().map(|(method, request, response)| {
                    (method.to_owned(), request, response)
                }), "{name}");
            }
        }
    };
}
pub(crate) use service;

/// Method, request and response of a service as its .proto file has them.
#[cfg(test)]
pub(crate) fn methods_in_proto(service: &str) -> Vec<(String, String, String)> {
    use prost::Message;
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    let set = prost_types::FileDescriptorSet::decode(descriptors.as_slice()).unwrap();
    let file = set
        .file
        .iter()
        .find(|file| {
            service.strip_prefix(file.package()).is_some_and(|rest| {
                file.service.iter().any(|declared| rest.strip_prefix('.') == Some(declared.name()))
            })
        })
        .unwrap();
    let absolute = |name: &str| name.trim_start_matches('.').to_owned();
    file.service[0]
        .method
        .iter()
        .map(|method| {
            (method.name().to_owned(), absolute(method.input_type()), absolute(method.output_type()))
        })
        .collect()
}
