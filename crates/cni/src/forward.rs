//! The place of the reference plugin `firewall`: whether an entry of a list asks that pods pass other people's forward
//! chains. Leaves the rules to `dunnage-net`.

use dunnage_net::{Owner, PodNetwork};

use crate::capability;
use crate::error::Result;
use crate::fields::Fields;
use crate::output;

/// Says it outright, for an entry of any kind.
const ASK: &str = "forwardAllow";
/// Keys of `firewall` that are nobody else's; `backend` is one of `portmap`, too.
const OWN: &[&str] = &["firewalldZone", "ingressPolicy"];
/// All that are read here.
pub(crate) const KEYS: &[&str] =
    &[ASK, "firewalldZone", "ingressPolicy", "iptablesAdminChainName", "backend"];

/// Whether pods are to pass: when the entry says so, when it has a key of `firewall`, or when it adds to another and has
/// no key that anybody else has a use for.
pub(crate) fn asks(fields: &Fields<'_>, only_adds: bool) -> Result<bool> {
    if let Some(said) = fields.flag(ASK)? {
        return Ok(said);
    }
    let has = |keys: &[&str]| keys.iter().any(|key| fields.get(key).is_some());
    Ok(has(OWN) || (only_adds && !has(capability::KEYS)))
}

/// Options of `firewall` that do not exist here.
pub(crate) fn refuse_unsupported(fields: &Fields<'_>) -> Result<()> {
    let policy = fields.text("ingressPolicy")?.is_some_and(|policy| policy != "open");
    fields.refuse_if("ingressPolicy", policy, "use a network policy")?;
    let chain = fields.text("iptablesAdminChainName")?.is_some();
    fields.refuse_if(
        "iptablesAdminChainName",
        chain,
        "put rules before those of this plugin into FORWARD",
    )?;
    let firewalld = fields.text("backend")? == Some("firewalld");
    let source =
        "give the pods' subnet to a zone: firewall-cmd --permanent --zone=trusted --add-source=SUBNET";
    fields.refuse_if("backend", firewalld, source)
}

/// Lets the owner's network pass.
pub(crate) fn let_pass(network: &mut PodNetwork, owner: &Owner) -> Result<()> {
    network.let_pass(owner)?;
    if let Some(warning) = PodNetwork::passage_warning() {
        output::note(&warning);
    }
    Ok(())
}
