//! How the federation's own texts are described (OpenAPI 3.1, section 4.8.24): those that serialize as strings.

use std::borrow::Cow;

use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::approval::ApprovalId;
use super::bridge::BridgeId;
use super::capability::CapabilityId;
use super::grant::GrantId;
use super::ledger::Head;
use super::moment::Moment;
use super::peer::PeerId;
use super::site::SiteId;
use super::token::Fingerprint;
use crate::model::Name;

/// A word of [`super::wire::Said`].
pub(super) enum Word {}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn known(format: KnownFormat) -> Object {
    text().format(Some(SchemaFormat::KnownFormat(format))).build()
}

macro_rules! described {
    ($($type:ident: $schema:expr;)*) => {$(
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                Schema::Object($schema).into()
            }
        }
        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                stringify!($type).into()
            }
        }
    )*};
}

described! {
    Moment: known(KnownFormat::DateTime);
    PeerId: known(KnownFormat::Uuid);
    ApprovalId: known(KnownFormat::Uuid);
    GrantId: known(KnownFormat::Uuid);
    BridgeId: known(KnownFormat::Uuid);
    CapabilityId: known(KnownFormat::Uuid);
    Fingerprint: text().pattern(Some("^[0-9a-f]{64}$")).build();
    Head: text().pattern(Some("^[0-9]+:[0-9a-f]{64}$")).build();
    SiteId: text().pattern(Some("^[a-z0-9][a-z0-9-]{0,47}\\.f[cd][0-9a-f]{10}$")).build();
    Word: text().max_length(Some(64)).build();
    Name: text().pattern(Some("^[a-z0-9][a-z0-9-]{0,47}$")).build();
}
