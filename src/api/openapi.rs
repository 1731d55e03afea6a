//! The APIs described (OpenAPI 3.1): one document for operators, one for peers, drawn from the routers themselves.
//!
//! What is a handler's own stands at the handler: what it reads, what it answers, what it refuses by itself. What holds
//! for many is added here:
//!
//! | where | what |
//! |---|---|
//! | a path has a `{name}` | the parameter, 404 |
//! | anything is read: path, query or body | 400 |
//! | a body | 413; one that may be left out isn't null |
//! | everywhere | who may (by the router that it stands in), 401, 403 or 408, 500, and a refusal's shape |

use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, ContentBuilder, HeaderBuilder, InfoBuilder, Object, ObjectBuilder, OpenApi,
    Ref, RefOr, Required, Response, Schema, Type,
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use crate::federation::resources::Kind;
use crate::federation::url::PeerUrl;
use crate::federation::wire::Refusal;

/// How operators show who they are: a token (RFC 6750); its permissions, or `api.sock` where only that way in will do.
pub(super) const OPERATOR: &str = "operator";
/// How peers do: by their certificate.
pub(super) const PEER: &str = "peer";
/// And what one is granted: by the grant's token (RFC 6750).
pub(super) const GRANT: &str = "grant";

/// What a path's parameters are.
const PARAMETERS: [(&str, &str); 8] = [
    ("peer", "A peer's id, or the alias of a live one"),
    ("approval", "An approval's id"),
    ("grant", "A grant's id"),
    ("capability", "An agreement's id"),
    ("jti", "A token's id"),
    ("bridge", "A bridge's id, the same at both sites"),
    ("kind", "A kind of resources"),
    ("id", "One of them"),
];

/// What is refused, in words.
const fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request is malformed, or lacks something",
        401 => "Nobody who is known",
        403 => "Not allowed",
        404 => "There is no such thing",
        408 => "The request didn't come to its end in time",
        409 => "Not as things stand",
        413 => "The body is longer than 64 KiB",
        422 => "It can't be taken as it is",
        429 => "Too often, or too much",
        502 => "The peer can't be reached, or refuses",
        503 => "The fleet can't be read, or no new peers are taken for now",
        _ => "This site has a fault",
    }
}

/// The operators' API.
#[must_use]
pub fn operators() -> OpenApi {
    let routes = super::operator::described();
    whole(routes, "sdwand, for operators", OPERATOR, &[(OPERATOR, bearer())])
}

fn bearer() -> SecurityScheme {
    SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer))
}

/// What peers call.
#[must_use]
pub fn peers() -> OpenApi {
    let certificate = SecurityScheme::MutualTls {
        description: None,
        extensions: None,
        deprecated: None,
    };
    let schemes = [(PEER, certificate), (GRANT, bearer())];
    whole(
        super::federation_api::described(),
        "sdwand, for peers",
        PEER,
        &schemes,
    )
}

/// A peer's URL (ECMA-262), but those with an address of IPv6, which are taken, too.
const URL: &str = r"^[ \t\r\n]*https://[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?(:(0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*[ \t\r\n]*$";

/// A peer's URL.
pub(super) fn url() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(PeerUrl::MAX))
        .pattern(Some(URL))
}

/// The same routes, which need this.
pub(super) fn secured<S: Clone + Send + Sync + 'static>(
    mut routes: OpenApiRouter<S>,
    need: &SecurityRequirement,
) -> OpenApiRouter<S> {
    for (_, operation) in operations(routes.get_openapi_mut()) {
        operation.security = Some(vec![need.clone()]);
    }
    routes
}

/// Every operation, with its path.
fn operations(document: &mut OpenApi) -> impl Iterator<Item = (&str, &mut Operation)> {
    document.paths.paths.iter_mut().flat_map(|(path, item)| {
        let PathItem {
            get,
            put,
            post,
            delete,
            patch,
            ..
        } = item;
        let all = [get, put, post, delete, patch].into_iter().flatten();
        all.map(|operation| (path.as_str(), operation))
    })
}

fn whole(mut document: OpenApi, title: &str, scheme: &str, schemes: &[(&str, SecurityScheme)]) -> OpenApi {
    document.info = InfoBuilder::new()
        .title(title)
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    let components = document.components.take().unwrap_or_default();
    let components = ComponentsBuilder::from(components).schema(Refusal::name(), Refusal::schema());
    let components = schemes.iter().fold(components, |components, (name, scheme)| {
        components.security_scheme(*name, scheme.clone())
    });
    document.components = Some(components.build());
    for (path, operation) in operations(&mut document) {
        name(operation);
        let mut refused = vec![401, 500];
        refused.push(if scheme == OPERATOR { 403 } else { 408 });
        if parameters(path, operation) {
            refused.push(404);
        }
        if leave_out(operation) {
            refused.push(413);
        }
        if operation.request_body.is_some() || operation.parameters.is_some() {
            refused.push(400);
        }
        for status in refused {
            let responses = &mut operation.responses.responses;
            responses
                .entry(status.to_string())
                .or_insert_with(|| RefOr::T(Response::new("")));
        }
        for (status, response) in &mut operation.responses.responses {
            if let (Ok(status), RefOr::T(response)) = (status.parse(), response) {
                describe(status, response, scheme);
            }
        }
    }
    document
}

/// Handlers of several files have the same name: their files tell them apart.
fn name(operation: &mut Operation) {
    let file = operation.tags.iter().flatten().next();
    if let (Some(file), Some(id)) = (file, &mut operation.operation_id) {
        *id = format!("{file}_{id}");
    }
}

/// Adds the path's parameters; says whether there are any.
fn parameters(path: &str, operation: &mut Operation) -> bool {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let of_path: Vec<RefOr<Parameter>> = names
        .map(|(name, _)| {
            let known = PARAMETERS.iter().find(|(known, _)| *known == name);
            let text = ObjectBuilder::new().schema_type(Type::String);
            let schema = match name {
                "kind" => text.enum_values(Some(Kind::ALL.map(Kind::as_str))),
                _ => text.min_length(Some(1)),
            };
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(known.map(|(_, description)| *description))
                .schema(Some(schema))
                .build();
            RefOr::T(parameter)
        })
        .collect();
    let has_any = !of_path.is_empty();
    if has_any {
        operation.parameters.get_or_insert_default().extend(of_path);
    }
    has_any
}

/// A body that may be left out isn't null where it is there. Says whether there is one.
fn leave_out(operation: &mut Operation) -> bool {
    let Some(RefOr::T(body)) = &mut operation.request_body else {
        return false;
    };
    for content in body.content.values_mut() {
        if let RefOr::T(Content { schema, .. }) = content
            && let Some(RefOr::T(Schema::OneOf(one))) = schema
            && let Some(named) = one.items.iter().find_map(reference)
        {
            *schema = Some(RefOr::Ref(named));
            body.required = None;
        }
    }
    true
}

fn reference(schema: &RefOr<Schema>) -> Option<Ref> {
    match schema {
        RefOr::Ref(named) => Some(named.clone()),
        RefOr::T(_) => None,
    }
}

/// A refusal's shape, and words where the handler has none.
fn describe(status: u16, response: &mut Response, scheme: &str) {
    if status < 400 {
        if response.description.is_empty() {
            "Done".clone_into(&mut response.description);
        }
        return;
    }
    meaning(status).clone_into(&mut response.description);
    let refusal = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(Refusal::name())))
        .build();
    response
        .content
        .insert("application/json".to_owned(), RefOr::T(refusal));
    if status == 401 && scheme == OPERATOR {
        let header = HeaderBuilder::new().schema(Some(Object::with_type(Type::String)));
        response
            .headers
            .insert("WWW-Authenticate".to_owned(), RefOr::T(header.build()));
    }
}
