//! `resources` of a container: requests and limits of CPU and memory, exact.

use super::field::{Field, Fields};
use crate::quantity::Quantity;

/// What a container asks for and may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu: Amounts,
    pub(crate) memory: Amounts,
}

/// Request and limit of one resource. A limit without a request is also the request, as the API server
/// makes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) request: Option<Quantity>,
    pub(crate) limit: Option<Quantity>,
}

/// One of the two lists, `requests` or `limits`.
#[derive(Debug, Default)]
struct List<'a> {
    cpu: Option<(Quantity, Field<'a>)>,
    memory: Option<(Quantity, Field<'a>)>,
}

pub(super) fn decode(field: &Field<'_>) -> Resources {
    let mut fields = field.fields();
    let requests = fields.take("requests").map(|f| list(f.fields())).unwrap_or_default();
    let limits = fields.take("limits").map(|f| list(f.fields())).unwrap_or_default();
    fields.refuse(&[("claims", "dynamic resource allocation needs a cluster")]);
    fields.finish();
    Resources { cpu: amounts(requests.cpu, limits.cpu), memory: amounts(requests.memory, limits.memory) }
}

fn list<'a>(mut fields: Fields<'a>) -> List<'a> {
    let cpu = fields.take("cpu").and_then(|field| Some((field.quantity()?, field)));
    let memory = fields.take("memory").and_then(|field| Some((bytes(&field)?, field)));
    for (name, field) in fields.take_all() {
        field.refuse(match name {
            "ephemeral-storage" => "is not supported: nothing here measures what a container writes",
            _ => "is not supported: only cpu and memory are",
        });
    }
    List { cpu, memory }
}

/// Memory comes in whole bytes. `400m`, four tenths of a byte, is a slip that Kubernetes lets pass.
fn bytes(field: &Field<'_>) -> Option<Quantity> {
    let amount = field.quantity()?;
    if !amount.is_whole() {
        field.fault(format!(
            "{amount} bytes; memory comes in whole bytes (`m` is thousandths, `M` and `Mi` are mega)"
        ));
        return None;
    }
    Some(amount)
}

fn amounts(request: Option<(Quantity, Field<'_>)>, limit: Option<(Quantity, Field<'_>)>) -> Amounts {
    if let (Some((request, field)), Some((limit, _))) = (&request, &limit)
        && request > limit
    {
        field.fault(format!("the request {request} is more than the limit {limit}"));
    }
    let limit = limit.map(|(limit, _)| limit);
    Amounts { request: request.map(|(request, _)| request).or(limit), limit }
}
