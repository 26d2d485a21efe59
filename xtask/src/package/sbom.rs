//! What the `agentfs` program is made of: a bill of materials in CycloneDX 1.5, from what cargo
//! itself says of the dependencies.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::report::{Failure, capture};
use crate::tools::cargo;

/// What `cargo metadata` says, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    /// Nothing for a package of this tree.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// Nothing for one that is linked; `dev` or `build` for the others.
    kind: Option<String>,
}

/// The bill of materials of the packages that are built into the program: `roots`, the first of
/// which it is named after, and all that they link.
pub(super) fn of(roots: &[&str]) -> Result<String, Failure> {
    let host = capture(std::process::Command::new("rustc").args(["--print", "host-tuple"]))?;
    let text = capture(
        cargo()
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", host.trim()]),
    )?;
    let metadata: Metadata = serde_json::from_str(&text)
        .map_err(|error| Failure::new(format!("cargo metadata: {error}")))?;
    let bom = bill(&metadata, roots)
        .ok_or_else(|| Failure::new(format!("{roots:?} are not packages of this tree")))?;
    Ok(format!("{bom:#}\n"))
}

fn bill(metadata: &Metadata, roots: &[&str]) -> Option<Value> {
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|it| (it.id.as_str(), it))
        .collect();
    let linked = linked(metadata);
    let root = |name: &str| {
        let mut own = metadata.packages.iter();
        own.find(|it| it.source.is_none() && it.name == name)
    };
    let roots: Vec<&Package> = roots.iter().map(|name| root(name)).collect::<Option<_>>()?;
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = roots.iter().map(|it| it.id.as_str()).collect();
    while let Some(id) = next.pop() {
        if found.insert(id) {
            next.extend(linked.get(id).into_iter().flatten());
        }
    }
    let found: Vec<&Package> = found
        .iter()
        .filter_map(|id| packages.get(id).copied())
        .collect();
    let dependencies = found.iter().map(|it| {
        let below = linked.get(it.id.as_str()).into_iter().flatten();
        let below = below.filter_map(|id| packages.get(id)).map(|it| it.url());
        json!({ "ref": it.url(), "dependsOn": below.collect::<Vec<_>>() })
    });
    let program = roots.first()?;
    Some(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application",
            "bom-ref": "agentfs",
            "name": "agentfs",
            "version": program.version,
            "licenses": program.licences(),
        }},
        "components": found.iter().map(|it| it.component()).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    }))
}

/// Of each package, what it links.
fn linked(metadata: &Metadata) -> BTreeMap<&str, Vec<&str>> {
    let nodes = metadata.resolve.nodes.iter();
    nodes.map(|it| (it.id.as_str(), it.linked())).collect()
}

impl Node {
    fn linked(&self) -> Vec<&str> {
        let is_linked = |it: &&Dependency| it.dep_kinds.iter().any(|it| it.kind.is_none());
        let linked = self.deps.iter().filter(is_linked);
        linked.map(|it| it.pkg.as_str()).collect()
    }
}

impl Package {
    /// Its package URL, which names it.
    fn url(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn licences(&self) -> Value {
        // SPDX has no slash for "or", which older crates write.
        let expression = self.license.as_ref().map(|it| it.replace('/', " OR "));
        expression.map_or_else(|| json!([]), |it| json!([{ "expression": it }]))
    }

    fn component(&self) -> Value {
        json!({
            "type": "library",
            "bom-ref": self.url(),
            "name": self.name,
            "version": self.version,
            "description": self.description.as_deref().unwrap_or_default().trim(),
            "purl": self.url(),
            "licenses": self.licences(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// a links b, which links c; d is for a's tests only.
    fn metadata() -> Metadata {
        let package = |name: &str| {
            let source = (name != "a").then_some("registry");
            json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0",
                    "description": null, "source": source })
        };
        let link = |name: &str, kind: Option<&str>| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let packages = ["a", "b", "c", "d"].map(package);
        let value = json!({
            "packages": packages,
            "resolve": { "nodes": [
                { "id": "a", "deps": [link("b", None), link("d", Some("dev"))] },
                { "id": "b", "deps": [link("c", None)] },
                { "id": "c", "deps": [] },
                { "id": "d", "deps": [] },
            ]},
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn all_that_is_linked_is_listed_and_nothing_else() {
        let bom = bill(&metadata(), &["a"]).unwrap();
        let components = bom["components"].as_array().unwrap();
        let names: Vec<&str> = components
            .iter()
            .filter_map(|it| it["name"].as_str())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(
            components[1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            bom["dependencies"][1],
            json!({ "ref": "pkg:cargo/b@1.0.0", "dependsOn": ["pkg:cargo/c@1.0.0"] })
        );
    }

    #[test]
    fn package_of_somebody_else_is_no_root() {
        assert!(bill(&metadata(), &["b"]).is_none());
    }
}
