//! Pod networking: route netlink and nftables messages, address leases, the wanted state of a pod network.
#![forbid(unsafe_code)]
